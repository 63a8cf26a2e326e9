"""Why a request waited at a moment, in words from recorded facts; and the story of a request from beginning to end.

`learnsgl trace why`, the figures and the lessons call `why` and `story`. The reason at a moment is the ledger's cause
there, so both always agree; each sentence names the events that it comes from, by process and number, so that they can
be looked up with `learnsgl trace cat`.
"""

from __future__ import annotations

from dataclasses import dataclass

from learnsgl.replay.history import History, scan_history
from learnsgl.replay.ledger import Ledger, Ledgers
from learnsgl.replay.ledger_causes import Cause
from learnsgl.replay.ledger_life import Life
from learnsgl.replay.ledger_spans import Part
from learnsgl.replay.moments import find_moment
from learnsgl.replay.replay import Replay
from learnsgl.replay.why_queue import Queue
from learnsgl.replay.why_text import Sentence
from learnsgl.replay.why_words import Words
from learnsgl.trace.checks.base import Place
from learnsgl.trace.reader import Trace

__all__ = ["Reasons", "Sentence", "Span", "Why", "story", "why"]


@dataclass(frozen=True)
class Why:
    """What a request waited for at a moment.

    Attributes:
        uid, choice: the request.
        ns: the moment.
        part: the part of the ledger in which it lies; `None` before the request came and after it had ended.
        sentences: what is known, the reason first.
    """

    uid: int
    choice: int
    ns: int
    part: Part | None
    sentences: tuple[Sentence, ...]

    @property
    def cause(self) -> Cause | None:
        """The ledger's cause; `None` before the request came and after it had ended."""
        return None if self.part is None else self.part.cause

    def __str__(self) -> str:
        return "; ".join(sentence.text for sentence in self.sentences)


@dataclass(frozen=True)
class Span:
    """A stretch of a request's life.

    Attributes:
        part: when, and the cause.
        sentences: what is known of it, in its middle.
    """

    part: Part
    sentences: tuple[Sentence, ...]

    def __str__(self) -> str:
        return "; ".join(sentence.text for sentence in self.sentences)


def why(trace: Trace, uid: int, at: int | str, choice: int = 0) -> Why:
    """What a request waited for at a moment.

    Args:
        trace: the recording.
        uid: the request's id.
        at: nanoseconds on `time.monotonic_ns`, or a text such as `12.5s` or `step:40` (see `moments.py`).
        choice: which of its choices.

    Raises:
        OptionError: the recording has no such request, or no such moment.
        TraceFormatError: the trace is broken.
    """
    return Reasons(trace).why(uid, at, choice)


def story(trace: Trace, uid: int, choice: int = 0) -> list[Span]:
    """All that a request waited for and went through, in order, with reasons.

    Raises:
        OptionError: the recording has no such request.
        TraceFormatError: the trace is broken.
    """
    return Reasons(trace).story(uid, choice)


class Reasons:
    """Answers about one recording; whoever asks more than once makes it once.

    Attributes:
        ledgers: of the recording.

    Args:
        trace: the recording.
        history: its history, where it has been read already.
    """

    def __init__(self, trace: Trace, history: History | None = None) -> None:
        self.ledgers = Ledgers(history if history is not None else scan_history(trace))
        self._trace = trace
        self._queue = Queue(self.ledgers.history)
        self._origin_ns = (trace.span_ns() or (0, 0))[0]

    def why(self, uid: int, at: int | str, choice: int = 0) -> Why:
        """As the function `why`."""
        ledger, life, words = self._of(uid, choice)
        ns = find_moment(Replay(self._trace), at).ns if isinstance(at, str) else at
        for part, token_step in _parts_with_steps(ledger):
            if part.start_ns <= ns < part.end_ns:
                return Why(uid, choice, ns, part, tuple(words.of(part, ns, token_step)))
        return Why(uid, choice, ns, None, (self._outside(ledger, life, words, ns),))

    def story(self, uid: int, choice: int = 0) -> list[Span]:
        """As the function `story`."""
        ledger, _, words = self._of(uid, choice)
        return [
            Span(part, tuple(words.of(part, (part.start_ns + part.end_ns) // 2, token_step)))
            for part, token_step in _parts_with_steps(ledger)
        ]

    def _of(self, uid: int, choice: int) -> tuple[Ledger, Life, Words]:
        life = self.ledgers.life(uid, choice)
        return self.ledgers.of(uid, choice), life, Words(self.ledgers, self._queue, life, self._origin_ns)

    def _outside(self, ledger: Ledger, life: Life, words: Words, ns: int) -> Sentence:
        """Before its first moment, or after its last."""
        parts = list(ledger.parts)
        first = life.journey.first
        if parts and ns < parts[0].start_ns:
            places: tuple[Place, ...] = () if first is None else (first,)
            return Sentence(f"isn't here yet: it comes at {words.time(parts[0].start_ns)}", places)
        req = life.req
        known = [place for place in (req.ended, life.journey.answered, req.finished, req.refused) if place is not None]
        if not known:
            return Sentence("the recording ends without its ending")
        counted = "" if req.num_generated is None else f" with {req.num_generated:,} tokens"
        status = "" if req.status is None else f", status {req.status}" + (f" ({req.code})" if req.code else "")
        ended_ns = max(place.ns for place in known)
        return Sentence(
            f"has ended at {words.time(ended_ns)} by {req.reason or 'error'}{counted}{status}", tuple(known)
        )


def _parts_with_steps(ledger: Ledger) -> list[tuple[Part, int | None]]:
    """Every part, and the step whose token ends its interval."""
    intervals = ([ledger.ttft] if ledger.ttft else []) + list(ledger.gaps)
    found: list[tuple[Part, int | None]] = [
        (part, steps[-1]) for parts, steps in zip(intervals, ledger.gap_steps, strict=True) for part in parts
    ]
    return found + [(part, None) for part in ledger.end]
