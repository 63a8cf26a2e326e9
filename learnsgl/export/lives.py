"""The life of each request, told when it is over, so that an export forgets it and a long trace doesn't fill memory.

`trace/life.py` reads a whole trace and keeps everything; this gives the same lives one by one while events stream by.
All formats but JSON lines use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from learnsgl.config import TraceLevel
from learnsgl.core import ReqKey
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints, keys_of
from learnsgl.trace.events import Event
from learnsgl.trace.life import RequestLife
from learnsgl.trace.reader import Entry, Trace

Handler = Callable[[Entry, Any], list[int] | None]
"""Takes an event over; returns requests that may be over with it."""
_CLIENT_GONE_STATUS = 499


@dataclass
class RequestRecord:
    """A request with all its choices.

    Attributes:
        uid: its id.
        route: where it came in; `None` where the trace lacks that.
        body_bytes: length of its body.
        streamed: whether its client asked for a stream.
        lives: the life of each choice.
        codes: error codes of choices that ended with one.
        received_ns, tokenize_sent_ns, answered_ns: moments that all its choices share.
        client_gone: whether its client went away.
    """

    uid: int
    route: str | None = None
    body_bytes: int | None = None
    streamed: bool = False
    lives: dict[int, RequestLife] = field(default_factory=dict)
    codes: dict[int, str] = field(default_factory=dict)
    received_ns: int | None = None
    tokenize_sent_ns: int | None = None
    answered_ns: int | None = None
    client_gone: bool = False

    def life(self, choice: int) -> RequestLife:
        """The life of a choice, begun where it isn't known yet."""
        if choice not in self.lives:
            self.lives[choice] = RequestLife(ReqKey(self.uid, choice))
        return self.lives[choice]

    def complete(self) -> RequestRecord:
        """The same record, each choice with the moments that all of them share."""
        for life in self.lives.values() if self.lives else (self.life(0),):
            life.received_ns, life.streamed = self.received_ns, self.streamed
            life.tokenize_sent_ns, life.answered_ns = self.tokenize_sent_ns, self.answered_ns
        return self

    @property
    def sorted_lives(self) -> list[RequestLife]:
        """The lives of its choices, in their order."""
        return [self.lives[choice] for choice in sorted(self.lives)]


class LifeStream:
    """Turns events into requests that are over.

    Where a trace has several scheduler ranks, the first speaks for all, as in `trace/life.py`.

    Args:
        trace: whose events will come.
    """

    def __init__(self, trace: Trace) -> None:
        schedulers = [name for name in trace.processes if trace.process(name).does("scheduler")]
        self._scheduler = schedulers[0] if schedulers else None
        self._has_api = any(trace.process(name).does("api") for name in trace.processes)
        self._records_release = trace.level != TraceLevel.STEPS
        self._open: dict[int, RequestRecord] = {}
        self._over = _Numbers()
        self._handlers: dict[type[Event], Handler] = {
            events.HttpReceived: self._on_received,
            events.HttpStreamed: self._on_streamed,
            events.HttpDisconnected: self._on_disconnected,
            events.HttpAnswered: self._on_answered,
            events.MsgSent: self._on_sent,
            events.ReqEnded: self._on_ended,
            events.DetokDecoded: self._on_decoded,
        }
        self._scheduler_handlers: dict[type[Event], Handler] = {
            events.ReqQueued: self._on_queued,
            events.SchedAdmitted: self._on_admitted,
            events.SchedCommitted: self._on_committed,
            events.ReqFinished: self._on_finished,
            events.ReqReleased: self._on_released,
        }

    def take(self, entry: Entry) -> list[RequestRecord]:
        """Take one event over; returns the requests that are over with it."""
        kind = type(entry.event)
        handler = self._handlers.get(kind)
        if handler is None and entry.process == self._scheduler:
            handler = self._scheduler_handlers.get(kind)
        if handler is None:
            return []
        uids = handler(entry, entry.event)
        return [self._close(uid) for uid in uids or () if uid in self._open and self._is_over(self._open[uid])]

    def rest(self) -> list[RequestRecord]:
        """After the last event: requests whose end isn't in the trace, in the order in which they came."""
        left = [self._close(uid) for uid in list(self._open)]
        return sorted(left, key=lambda record: record.uid)

    def _close(self, uid: int) -> RequestRecord:
        self._over.add(uid)
        return self._open.pop(uid).complete()

    def _is_over(self, record: RequestRecord) -> bool:
        lives = record.lives.values()
        if self._has_api:
            told = bool(lives) and (record.answered_ns is not None or record.client_gone)
            return told and all(life.ended_ns is not None and self._is_released(life) for life in lives)
        return all(life.reason is not None and self._is_released(life) for life in lives)

    def _is_released(self, life: RequestLife) -> bool:
        has_row = life.admitted_ns is not None or bool(life.committed_ns)  # admitted before the trace begins, perhaps
        return not self._records_release or not has_row or life.released_ns is not None

    # ------------------------------------------------------------ finding the request

    def _record(self, uid: int) -> RequestRecord | None:
        """The record of a request, begun where it is new; `None` where it is over."""
        record = self._open.get(uid)
        if record is None and uid not in self._over:
            record = self._open[uid] = RequestRecord(uid)
        return record

    def _life(self, key: ReqKey) -> RequestLife | None:
        record = self._record(key.uid)
        return None if record is None else record.life(key.choice)

    def _each(self, entry: Entry, event: Any) -> Iterator[tuple[int, RequestLife]]:
        for place, key in enumerate(keys_of(entry, event.uids, event.choices)):
            life = self._life(key)
            if life is not None:
                yield place, life

    # ------------------------------------------------------------ events

    def _on_received(self, entry: Entry, event: events.HttpReceived) -> None:
        record = self._record(event.uid)
        if record is not None:
            record.received_ns, record.streamed = event.ns, event.stream
            record.route, record.body_bytes = event.route, event.body_bytes

    def _on_sent(self, entry: Entry, event: events.MsgSent) -> None:
        if "TokenizeMsg" in event.kinds:
            for uid in ints(event.uids, "i8").tolist():
                record = self._record(uid)
                if record is not None:
                    record.tokenize_sent_ns = record.tokenize_sent_ns or event.ns

    def _on_queued(self, entry: Entry, event: events.ReqQueued) -> None:
        life = self._life(ReqKey(event.uid, event.choice))
        if life is not None:
            life.queued_ns, life.prompt_tokens = event.ns, event.prompt_len

    def _on_admitted(self, entry: Entry, event: events.SchedAdmitted) -> None:
        cached_lens = ints(event.cached_lens, "i4").tolist()
        for place, life in self._each(entry, event):
            life.admitted_ns, life.cached_tokens = event.ns, cached_lens[place]

    def _on_committed(self, entry: Entry, event: events.SchedCommitted) -> None:
        for place, life in self._each(entry, event):
            if event.kept[place]:
                life.committed_ns[1:] = [event.ns]  # the first and the last say all that the stages need

    def _on_finished(self, entry: Entry, event: events.ReqFinished) -> list[int]:
        num_tokens = ints(event.num_tokens, "i4").tolist()
        for place, life in self._each(entry, event):
            life.generated_tokens = num_tokens[place]
            life.reason = life.reason or event.reasons[place]
        return _uids(event)

    def _on_released(self, entry: Entry, event: events.ReqReleased) -> list[int]:
        for _, life in self._each(entry, event):
            life.released_ns = event.ns
        return _uids(event)

    def _on_decoded(self, entry: Entry, event: events.DetokDecoded) -> None:
        for _, life in self._each(entry, event):
            life.first_text_ns = life.first_text_ns or event.ns
            life.last_text_ns = event.ns

    def _on_streamed(self, entry: Entry, event: events.HttpStreamed) -> None:
        sent_ns = ints(event.sent_ns, "i8").tolist()
        for place, life in self._each(entry, event):
            has_text = life.first_text_ns is not None and sent_ns[place] >= life.first_text_ns
            if has_text and life.chunks_ns and life.chunks_ns[0] >= (life.first_text_ns or 0):
                life.chunks_ns[1:] = [sent_ns[place]]  # the first with text, and the last
            else:
                life.chunks_ns = [sent_ns[place]]

    def _on_answered(self, entry: Entry, event: events.HttpAnswered) -> list[int]:
        record = self._record(event.uid)
        if record is not None:
            record.answered_ns = event.ns
        return [event.uid]

    def _on_disconnected(self, entry: Entry, event: events.HttpDisconnected) -> list[int]:
        record = self._record(event.uid)
        if record is not None:
            record.client_gone = True
        return [event.uid]

    def _on_ended(self, entry: Entry, event: events.ReqEnded) -> list[int]:
        record = self._record(event.uid)
        if record is not None:
            life = record.life(event.choice)
            life.reason, life.status, life.ended_ns = event.reason, event.status, event.ns
            life.prompt_tokens, life.cached_tokens = event.prompt_tokens, event.cached_tokens
            life.generated_tokens = event.completion_tokens
            record.client_gone = record.client_gone or event.status == _CLIENT_GONE_STATUS
            if event.code is not None:
                record.codes[event.choice] = event.code
        return [event.uid]


def _uids(event: Any) -> list[int]:
    return list(ints(event.uids, "i8").tolist())


class _Numbers:
    """A set of numbers that are mostly all those up to some number: ids of requests that are over."""

    def __init__(self) -> None:
        self._all_up_to = 0
        self._others: set[int] = set()

    def add(self, number: int) -> None:
        self._others.add(number)
        while self._all_up_to + 1 in self._others:
            self._all_up_to += 1
            self._others.remove(self._all_up_to)

    def __contains__(self, number: int) -> bool:
        return 0 < number <= self._all_up_to or number in self._others
