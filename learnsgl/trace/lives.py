"""The lives of all requests of a trace, put together from its events.

`requests` reads a whole trace and keeps everything; `export/lives.py` lets `LifeReader` forget each request when it is
over, so that a long trace doesn't fill memory. `life.py` says what a life is.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from learnsgl.core import ReqKey
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints, keys_of
from learnsgl.trace.events import Event
from learnsgl.trace.life import RequestLife
from learnsgl.trace.reader import Entry, Trace

_Handler = Callable[[Entry, Any], list[int] | None]
"""Takes an event over; returns requests that may have ended with it."""
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

    def sorted_lives(self) -> list[RequestLife]:
        """The lives of its choices in their order, each with the moments that all of them share."""
        if not self.lives:
            self.life(0)
        for life in self.lives.values():
            life.received_ns, life.streamed = self.received_ns, self.streamed
            life.tokenize_sent_ns, life.answered_ns = self.tokenize_sent_ns, self.answered_ns
        return [self.lives[choice] for choice in sorted(self.lives)]


def requests(trace: Trace) -> list[RequestLife]:
    """The life of every request in a trace, in the order in which they came."""
    reader = LifeReader(trace)
    for entry in trace.events():
        reader.take(entry)
    return sorted((life for record in reader.records.values() for life in record.sorted_lives()), key=_arrival)


class LifeReader:
    """Puts requests' lives together from events, one after the other.

    Where a trace has several scheduler ranks, the first speaks for all.

    Attributes:
        records: the requests by their ids. Whoever takes one out adds its id to `over`, for late events about it.

    Args:
        trace: whose events will come.
        over: ids of requests whose events are passed over.
        all_moments: keep when each token was taken over and each chunk was sent; else of each the first (of chunks, the
            first that can hold text) and the last, which say all that stages, TTFT and TPOT need.
    """

    def __init__(self, trace: Trace, over: Container[int] = (), *, all_moments: bool = True) -> None:
        schedulers = [name for name in trace.processes if trace.process(name).does("scheduler")]
        self._scheduler = schedulers[0] if schedulers else None
        self._over = over
        self._all_moments = all_moments
        self.records: dict[int, RequestRecord] = {}
        self._handlers: dict[type[Event], _Handler] = {
            events.HttpReceived: self._on_received,
            events.HttpStreamed: self._on_streamed,
            events.HttpDisconnected: self._on_disconnected,
            events.HttpAnswered: self._on_answered,
            events.MsgSent: self._on_sent,
            events.ReqEnded: self._on_ended,
            events.DetokDecoded: self._on_decoded,
        }
        self._scheduler_handlers: dict[type[Event], _Handler] = {
            events.ReqQueued: self._on_queued,
            events.SchedAdmitted: self._on_admitted,
            events.SchedCommitted: self._on_committed,
            events.ReqFinished: self._on_finished,
            events.ReqReleased: self._on_released,
        }

    def take(self, entry: Entry) -> list[int]:
        """Take one event over; returns the ids of requests that may have ended with it."""
        kind = type(entry.event)
        handler = self._handlers.get(kind)
        if handler is None and entry.process == self._scheduler:
            handler = self._scheduler_handlers.get(kind)
        return [] if handler is None else handler(entry, entry.event) or []

    # ------------------------------------------------------------ finding the request

    def _record(self, uid: int) -> RequestRecord | None:
        """The record of a request, begun where it is new; `None` where it is over."""
        record = self.records.get(uid)
        if record is None and uid not in self._over:
            record = self.records[uid] = RequestRecord(uid)
        return record

    def _life(self, key: ReqKey) -> RequestLife | None:
        record = self._record(key.uid)
        return None if record is None else record.life(key.choice)

    def _each(self, entry: Entry, event: Any) -> Iterator[tuple[int, RequestLife]]:
        for place, key in enumerate(keys_of(entry, event.uids, event.choices)):
            life = self._life(key)
            if life is not None:
                yield place, life

    def _add(self, moments: list[int], ns: int, num_kept: int) -> None:
        """Add a moment, in the place of all but the first `num_kept` where only first and last are wanted."""
        moments[len(moments) if self._all_moments else num_kept :] = [ns]

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
                self._add(life.committed_ns, event.ns, num_kept=1)

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
            text_ns, chunks = life.first_text_ns, life.chunks_ns
            has_text = text_ns is not None and bool(chunks) and chunks[0] >= text_ns
            self._add(chunks, sent_ns[place], num_kept=int(has_text))

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


def _arrival(life: RequestLife) -> tuple[int, ReqKey]:
    known = [ns for ns in (life.received_ns, life.tokenize_sent_ns, life.queued_ns, life.ended_ns) if ns is not None]
    return min(known, default=0), life.key
