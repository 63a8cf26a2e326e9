"""A request's life in eight stages, with its TTFT and TPOT, read back from a trace.

`lives.py` reads them from a trace, for the demo, `learnsgl trace info`, the exports and the notebooks. Every moment is
that of a recorded event, so what is printed is what happened.

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
from dataclasses import dataclass, field
from typing import NamedTuple

from learnsgl.core import ReqKey

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
