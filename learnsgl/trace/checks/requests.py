"""Every request has exactly one ending, the scheduler's steps of its life are in order, and both ends count alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from learnsgl.core import FinishReason, ReqKey
from learnsgl.trace import events
from learnsgl.trace.checks.base import Check, Handler, Missing, Place, Scope, ints, keys_of, place_of, violation
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Entry


@dataclass(slots=True)
class _Scheduled:
    """What one scheduler recorded of a request."""

    queued: Place
    prompt_len: int
    cached_len: int = 0
    admitted: Place | None = None
    finished: Place | None = None
    reason: str = ""
    num_tokens: int = 0
    is_released: bool = False


@dataclass(frozen=True, slots=True)
class _Ending:
    """What the API server recorded of a request's end."""

    place: Place
    event: events.ReqEnded


class RequestCheck(Check):
    """The life of every request, at the API server and in every scheduler."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._received: dict[int, Place] = {}
        self._endings: dict[ReqKey, _Ending] = {}
        self._refused: dict[ReqKey, Place] = {}
        self._kept: dict[ReqKey, int] = {}
        self._scheduled: dict[str, dict[ReqKey, _Scheduled]] = {name: {} for name in scope.trace.processes}

    def handlers(self) -> dict[type[Event], Handler]:
        """The kinds of the family `req.*`, and admissions."""
        return {
            events.HttpReceived: self._on_received,
            events.ReqEnded: self._on_ended,
            events.ReqQueued: self._on_queued,
            events.ReqRefused: self._on_refused,
            events.ReqAborting: self._on_aborting,
            events.DetokStopped: self._on_stopped,
            events.SchedAdmitted: self._on_admitted,
            events.ReqFinished: self._on_finished,
            events.ReqReleased: self._on_released,
        }

    # ------------------------------------------------------------ the API server

    def _on_received(self, entry: Entry, event: events.HttpReceived) -> None:
        if event.uid in self._received:
            raise violation(entry, f"request {event.uid} was received before")
        self._received[event.uid] = place_of(entry)

    def _on_ended(self, entry: Entry, event: events.ReqEnded) -> None:
        key = ReqKey(event.uid, event.choice)
        if key in self._endings:
            before = self._endings[key].place.number
            raise violation(entry, f"{_name(key)} ended before, at event {before}; a request ends exactly once")
        if event.reason not in set(FinishReason):
            raise violation(entry, f"{_name(key)} ended by {event.reason!r}; allowed: {', '.join(FinishReason)}")
        if event.uid not in self._received and not self._scope.has_holes(entry.process):
            raise violation(entry, f"{_name(key)} ended, but was never received")
        self._endings[key] = _Ending(place_of(entry), event)

    # ------------------------------------------------------------ a scheduler

    def _on_queued(self, entry: Entry, event: events.ReqQueued) -> None:
        key = ReqKey(event.uid, event.choice)
        known = self._scheduled[entry.process]
        if key in known:
            raise violation(entry, f"{_name(key)} was queued before, at event {known[key].queued.number}")
        known[key] = _Scheduled(place_of(entry), event.prompt_len)

    def _on_refused(self, entry: Entry, event: events.ReqRefused) -> None:
        self._refused[ReqKey(event.uid, event.choice)] = place_of(entry)

    def _on_aborting(self, entry: Entry, event: events.ReqAborting) -> None:
        if event.reason == FinishReason.STOP and event.num_kept_tokens is not None and event.choice is not None:
            self._kept[ReqKey(event.uid, event.choice)] = event.num_kept_tokens

    def _on_stopped(self, entry: Entry, event: events.DetokStopped) -> None:
        self._kept[ReqKey(event.uid, event.choice)] = event.num_kept_tokens

    def _on_admitted(self, entry: Entry, event: events.SchedAdmitted) -> None:
        keys = keys_of(entry, event.uids, event.choices)
        for key, cached_len in zip(keys, ints(event.cached_lens, "i4").tolist(), strict=True):
            req = self._known(entry, key, "admitted")
            if req is None:
                continue
            if req.admitted or req.finished:
                raise violation(entry, f"{_name(key)} was admitted, but had left the queue before")
            req.admitted, req.cached_len = place_of(entry), cached_len

    def _on_finished(self, entry: Entry, event: events.ReqFinished) -> None:
        keys = keys_of(entry, event.uids, event.choices)
        for key, reason, num_tokens in zip(keys, event.reasons, ints(event.num_tokens, "i4").tolist(), strict=True):
            req = self._known(entry, key, "finished")
            if req is None:
                continue
            if req.finished:
                raise violation(entry, f"{_name(key)} finished before, at event {req.finished.number}")
            req.finished, req.reason, req.num_tokens = place_of(entry), reason, num_tokens

    def _on_released(self, entry: Entry, event: events.ReqReleased) -> None:
        for key in keys_of(entry, event.uids, event.choices):
            req = self._known(entry, key, "released")
            if req is None:
                continue
            if req.is_released or not req.admitted or not req.finished:
                state = (
                    "was released before"
                    if req.is_released
                    else "has not " + ("been admitted" if not req.admitted else "finished")
                )
                raise violation(entry, f"{_name(key)} was released, but {state}")
            req.is_released = True

    def _known(self, entry: Entry, key: ReqKey, what: str) -> _Scheduled | None:
        req = self._scheduled[entry.process].get(key)
        if req is None and not self._scope.has_holes(entry.process):
            raise violation(entry, f"{_name(key)} was {what}, but never queued")
        return req

    # ------------------------------------------------------------ the end

    def finish(self) -> Iterator[Missing]:
        """Requests without an ending or a release, and endings whose numbers differ from the scheduler's."""
        apis = self._scope.named("api")
        if apis and not any(self._scope.is_cut(name) or name in self._scope.dropped for name in apis):
            yield from self._without_ending()
        for process, known in self._scheduled.items():
            is_whole = not self._scope.is_cut(process) and process not in self._scope.dropped
            for key, req in known.items():
                if is_whole:
                    yield from self._unfinished(key, req)
                yield from self._counted_differently(process, key, req)

    def _without_ending(self) -> Iterator[Missing]:
        ended = {key.uid for key in self._endings}
        for uid, place in self._received.items():
            if uid not in ended:
                yield Missing(place, f"request {uid} has no ending (req.ended)")
        for known in self._scheduled.values():
            for key, req in known.items():
                if key not in self._endings:
                    yield Missing(req.queued, f"{_name(key)} has no ending (req.ended)")
        for key, place in self._refused.items():
            if key not in self._endings:
                yield Missing(place, f"{_name(key)} was refused, but its client got no ending (req.ended)")

    def _unfinished(self, key: ReqKey, req: _Scheduled) -> Iterator[Missing]:
        if req.finished is None:
            yield Missing(req.queued, f"{_name(key)} was queued, but never finished (req.finished)")
        elif req.admitted and not req.is_released and self._scope.full:
            yield Missing(req.finished, f"{_name(key)} never gave its row and pages back (req.released)")

    def _counted_differently(self, process: str, key: ReqKey, req: _Scheduled) -> Iterator[Missing]:
        """A client that got a whole answer was told what the scheduler counted; one that left may know less."""
        ending = self._endings.get(key)
        if (
            ending is None
            or req.finished is None
            or ending.event.reason not in (FinishReason.STOP, FinishReason.LENGTH)
        ):
            return
        told = ending.event
        kept = self._kept.get(key)
        num_tokens = req.num_tokens if kept is None else min(kept, req.num_tokens)
        reason = req.reason if kept is None else FinishReason.STOP
        pairs = {
            "reason": (told.reason, reason),
            "prompt_tokens": (told.prompt_tokens, req.prompt_len),
            "completion_tokens": (told.completion_tokens, num_tokens),
        }
        if req.admitted:
            pairs["cached_tokens"] = (told.cached_tokens, req.cached_len)
        for field, (said, counted) in pairs.items():
            if said != counted:
                yield Missing(ending.place, f"{_name(key)}: {field} is {said}; {process} counted {counted}")

    def proved(self) -> list[str]:
        """Requests with their one ending."""
        reasons = [ending.event.reason for ending in self._endings.values()]
        each = ", ".join(f"{reason} {reasons.count(reason):,}" for reason in FinishReason if reason in reasons)
        line = f"requests  {len(reasons):,} with exactly one ending" + (f" ({each})" if each else "")
        num_released = sum(req.is_released for known in self._scheduled.values() for req in known.values())
        return [line + (f"; {num_released:,} gave their pages back" if self._scope.full else "")]


def _name(key: ReqKey) -> str:
    return f"request {key.uid}" + (f" choice {key.choice}" if key.choice else "")
