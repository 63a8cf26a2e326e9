"""A request's life in eight stages, with its TTFT and TPOT, read back from a trace.

The demo, `learnsgl trace info` and the notebooks call `requests`. Every moment is that of a recorded event, so what is
printed is what happened.

| stage | from | to |
| --- | --- | --- |
| 1 received | `http.received`: the request is read and checked | its `TokenizeMsg` is sent (`msg.sent` of the API) |
| 2 tokenized | the `TokenizeMsg` is sent | `req.queued`: its tokens are in the scheduler's queue |
| 3 queued | `req.queued` | `sched.admitted`: it has a row and the promise of its pages |
| 4 prefilled | `sched.admitted` | the `sched.committed` that keeps its first token |
| 5 decoded | that event | the `sched.committed` that keeps its last token |
| 6 detokenized | that event | the last `detok.decoded` with the request in it |
| 7 replied | that event | its last chunk is handed to the socket (`http.streamed`), or `http.answered` |
| 8 ended | that moment | the last of `http.answered`, `req.ended` and `req.released` |

Each begins where the one before it ends, so they add up to the whole life. A stage is missing where the trace lacks
one of its two events: at level `steps`, or where the request was refused, aborted or cut off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from learnsgl.core import ReqKey
from learnsgl.trace import events
from learnsgl.trace.checks.base import Handler, ints, keys_of
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Entry, Trace

STAGES = ("received", "tokenized", "queued", "prefilled", "decoded", "detokenized", "replied", "ended")


class Stage(NamedTuple):
    """One stage of a request's life.

    Attributes:
        name: one of `STAGES`.
        start_ns, end_ns: on `time.monotonic_ns`.
    """

    name: str
    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass
class RequestLife:
    """What a trace holds of one request (of each of its choices, where it has several).

    Attributes:
        key: its id and choice.
        reason: how it ended: stop, length, abort or error; `None` where it has no ending in the trace.
        status: HTTP status of its answer.
        prompt_tokens, cached_tokens, generated_tokens: as its client was told, or else as the scheduler counted.
        streamed: whether its client asked for a stream.
        chunks_ns: when each chunk of its stream was handed to the socket.
        committed_ns: when the scheduler took over each of its tokens.
        received_ns, tokenize_sent_ns, queued_ns, admitted_ns: the first moments of the stages above.
        first_text_ns, last_text_ns: its first and last `detok.decoded`.
        answered_ns, ended_ns, released_ns: its `http.answered`, `req.ended` and `req.released`.
    """

    key: ReqKey
    reason: str | None = None
    status: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int | None = None
    streamed: bool = False
    chunks_ns: list[int] = field(default_factory=list)
    committed_ns: list[int] = field(default_factory=list)
    received_ns: int | None = None
    tokenize_sent_ns: int | None = None
    queued_ns: int | None = None
    admitted_ns: int | None = None
    first_text_ns: int | None = None
    last_text_ns: int | None = None
    answered_ns: int | None = None
    ended_ns: int | None = None
    released_ns: int | None = None

    @property
    def moments(self) -> tuple[int | None, ...]:
        """The nine moments around the eight stages, each not before the one ahead of it."""
        committed = (self.committed_ns[0], self.committed_ns[-1]) if self.committed_ns else (None, None)
        replied = self.chunks_ns[-1] if self.chunks_ns else self.answered_ns
        ends = [ns for ns in (replied, self.answered_ns, self.ended_ns, self.released_ns) if ns is not None]
        return (
            self.received_ns, self.tokenize_sent_ns, self.queued_ns, self.admitted_ns, *committed, self.last_text_ns,
            replied, max(ends) if self.ended_ns is not None else None,
        )  # fmt: skip

    @property
    def stages(self) -> tuple[Stage | None, ...]:
        """The eight stages, in order; `None` for one that the trace doesn't hold."""
        return tuple(
            None if start is None or end is None else Stage(name, start, max(start, end))
            for name, (start, end) in zip(STAGES, itertools.pairwise(self.moments), strict=True)
        )

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: from `http.received` to the first chunk that can hold text, or to the whole answer."""
        first = self._first_chunk_ns if self.streamed else self.answered_ns
        return None if first is None or self.received_ns is None else (first - self.received_ns) / 1e9

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, at the client's side of the server; without a stream, as committed."""
        if self.generated_tokens is None or self.generated_tokens < 2:
            return None
        first, last = self._first_chunk_ns, self.chunks_ns[-1] if self.chunks_ns else None
        if not self.streamed and self.committed_ns:
            first, last = self.committed_ns[0], self.committed_ns[-1]
        return None if first is None or last is None else (last - first) / 1e9 / (self.generated_tokens - 1)

    @property
    def _first_chunk_ns(self) -> int | None:
        """The first chunk that can hold text: a stream may open with a chunk that only names the role."""
        text_ns = self.first_text_ns or 0
        return next((ns for ns in self.chunks_ns if ns >= text_ns), None)


def requests(trace: Trace) -> list[RequestLife]:
    """The life of every request in a trace, in the order in which they came."""
    reader = _LifeReader(trace)
    handlers = reader.handlers()
    for entry in trace.events():
        handler = handlers.get(type(entry.event))
        if handler is not None:
            handler(entry, entry.event)
    return reader.lives()


class _LifeReader:
    def __init__(self, trace: Trace) -> None:
        schedulers = [name for name in trace.processes if trace.process(name).does("scheduler")]
        self._scheduler = schedulers[0] if schedulers else None  # with several ranks, the first speaks for all
        self._lives: dict[ReqKey, RequestLife] = {}
        self._arrivals: dict[int, RequestLife] = {}
        """What is known of a request before its choices are: one for all of them."""

    def handlers(self) -> dict[type[Event], Handler]:
        return {
            events.HttpReceived: self._on_received,
            events.MsgSent: self._on_sent,
            events.ReqQueued: self._on_queued,
            events.SchedAdmitted: self._on_admitted,
            events.SchedCommitted: self._on_committed,
            events.ReqFinished: self._on_finished,
            events.ReqReleased: self._on_released,
            events.DetokDecoded: self._on_decoded,
            events.HttpStreamed: self._on_streamed,
            events.HttpAnswered: self._on_answered,
            events.ReqEnded: self._on_ended,
        }

    def lives(self) -> list[RequestLife]:
        keys: dict[int, list[ReqKey]] = {}
        for key in self._lives:
            keys.setdefault(key.uid, []).append(key)
        for uid, arrival in self._arrivals.items():
            for key in keys.get(uid, [ReqKey(uid)]):
                life = self._life(key)
                life.received_ns, life.streamed = arrival.received_ns, arrival.streamed
                life.tokenize_sent_ns, life.answered_ns = arrival.tokenize_sent_ns, arrival.answered_ns
        return sorted(self._lives.values(), key=_arrival)

    def _life(self, key: ReqKey) -> RequestLife:
        return self._lives.setdefault(key, RequestLife(key))

    def _arrival(self, uid: int) -> RequestLife:
        return self._arrivals.setdefault(uid, RequestLife(ReqKey(uid)))

    def _each(self, entry: Entry, event: Any) -> Iterator[tuple[int, RequestLife]]:
        for place, key in enumerate(keys_of(entry, event.uids, event.choices)):
            yield place, self._life(key)

    def _on_received(self, entry: Entry, event: events.HttpReceived) -> None:
        arrival = self._arrival(event.uid)
        arrival.received_ns, arrival.streamed = event.ns, event.stream

    def _on_sent(self, entry: Entry, event: events.MsgSent) -> None:
        if "TokenizeMsg" in event.kinds:
            for uid in ints(event.uids, "i8").tolist():
                arrival = self._arrival(uid)
                arrival.tokenize_sent_ns = arrival.tokenize_sent_ns or event.ns

    def _on_queued(self, entry: Entry, event: events.ReqQueued) -> None:
        if entry.process == self._scheduler:
            life = self._life(ReqKey(event.uid, event.choice))
            life.queued_ns, life.prompt_tokens = event.ns, event.prompt_len

    def _on_admitted(self, entry: Entry, event: events.SchedAdmitted) -> None:
        if entry.process == self._scheduler:
            cached_lens = ints(event.cached_lens, "i4").tolist()
            for place, life in self._each(entry, event):
                life.admitted_ns, life.cached_tokens = event.ns, cached_lens[place]

    def _on_committed(self, entry: Entry, event: events.SchedCommitted) -> None:
        if entry.process == self._scheduler:
            for place, life in self._each(entry, event):
                if event.kept[place]:
                    life.committed_ns.append(event.ns)

    def _on_finished(self, entry: Entry, event: events.ReqFinished) -> None:
        if entry.process == self._scheduler:
            num_tokens = ints(event.num_tokens, "i4").tolist()
            for place, life in self._each(entry, event):
                life.generated_tokens = num_tokens[place]
                life.reason = life.reason or event.reasons[place]

    def _on_released(self, entry: Entry, event: events.ReqReleased) -> None:
        if entry.process == self._scheduler:
            for _, life in self._each(entry, event):
                life.released_ns = event.ns

    def _on_decoded(self, entry: Entry, event: events.DetokDecoded) -> None:
        for _, life in self._each(entry, event):
            life.first_text_ns = life.first_text_ns or event.ns
            life.last_text_ns = event.ns

    def _on_streamed(self, entry: Entry, event: events.HttpStreamed) -> None:
        sent_ns = ints(event.sent_ns, "i8").tolist()
        for place, life in self._each(entry, event):
            life.chunks_ns.append(sent_ns[place])

    def _on_answered(self, entry: Entry, event: events.HttpAnswered) -> None:
        self._arrival(event.uid).answered_ns = event.ns

    def _on_ended(self, entry: Entry, event: events.ReqEnded) -> None:
        life = self._life(ReqKey(event.uid, event.choice))
        life.reason, life.status, life.ended_ns = event.reason, event.status, event.ns
        life.prompt_tokens, life.cached_tokens = event.prompt_tokens, event.cached_tokens
        life.generated_tokens = event.completion_tokens


def _arrival(life: RequestLife) -> tuple[int, ReqKey]:
    known = [ns for ns in (life.received_ns, life.tokenize_sent_ns, life.queued_ns, life.ended_ns) if ns is not None]
    return min(known, default=0), life.key
