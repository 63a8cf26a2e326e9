"""Spans of time with a cause, and how they are put together so that no instant is counted twice or left out.

The ledger's parts use it: a `Chain` is a row of moments, each with the reason for the time before it; `fit` cuts spans
to an interval and shows what they leave open; `Busy` knows when a process worked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from learnsgl.replay.history_data import SpanNs
from learnsgl.replay.ledger_causes import Cause


class Part(NamedTuple):
    """Time that passed for one reason.

    Attributes:
        cause: the reason.
        start_ns, end_ns: when; the end belongs to the next part.
    """

    cause: Cause
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        """How long it took."""
        return self.end_ns - self.start_ns


class Busy:
    """When a process worked: spans that don't overlap, in order.

    Args:
        spans: what it did, in any order.
    """

    def __init__(self, spans: Iterable[SpanNs] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(spans):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            elif end > start:
                self._starts.append(start)
                self._ends.append(end)

    def within(self, start_ns: int, end_ns: int) -> list[SpanNs]:
        """The spans between two moments, cut to them."""
        first, last = bisect_right(self._ends, start_ns), bisect_left(self._starts, end_ns)
        return [
            (max(start, start_ns), min(end, end_ns))
            for start, end in zip(self._starts[first:last], self._ends[first:last], strict=True)
        ]

    def last_end(self, start_ns: int, end_ns: int) -> int:
        """When the last of the work between two moments ended; the first moment where there was none."""
        last = bisect_left(self._starts, end_ns) - 1
        return start_ns if last < 0 else min(max(self._ends[last], start_ns), end_ns)


NEVER_BUSY = Busy()


class Chain:
    """A row of moments, and for each the reason for the time that led to it.

    A moment that the trace hasn't (`None`) leaves a hole: the time until the next known one is unexplained.

    Attributes:
        parts: what it holds so far.
        end_ns: its last moment.
    """

    def __init__(self, start_ns: int) -> None:
        self.parts: list[Part] = []
        self.end_ns = start_ns
        self._has_hole = False

    def to(self, ns: int | None, cause: Cause, *, busy: Busy = NEVER_BUSY, wait: Cause | None = None) -> None:
        """Go on to a moment.

        Args:
            ns: the moment.
            cause: why it took until then.
            busy: when the process that does it worked for others.
            wait: the cause of the time up to the end of such work.
        """
        if ns is None:
            self._has_hole = True
            return
        if self._has_hole:
            self._add(ns, Cause.UNEXPLAINED)
        elif wait is not None:
            self._add(busy.last_end(self.end_ns, max(ns, self.end_ns)), wait)
        self._add(ns, cause)
        self._has_hole = False

    def _add(self, ns: int, cause: Cause) -> None:
        if ns > self.end_ns:
            self.parts.append(Part(cause, self.end_ns, ns))
            self.end_ns = ns


def fit(parts: Iterable[Part], start_ns: int, end_ns: int) -> tuple[Part, ...]:
    """Exactly the time between two moments.

    Args:
        parts: in order; where two overlap, the earlier one has the time. What they leave open is unexplained.
        start_ns, end_ns: the moments.

    Returns:
        Parts without gaps or overlaps, neighbours of one cause joined.
    """
    fitted: list[Part] = []
    cursor = start_ns
    for part in parts:
        start, end = max(part.start_ns, cursor), min(part.end_ns, end_ns)
        if end <= start:
            continue
        if start > cursor:
            _join(fitted, Part(Cause.UNEXPLAINED, cursor, start))
        _join(fitted, Part(part.cause, start, end))
        cursor = end
    if cursor < end_ns:
        _join(fitted, Part(Cause.UNEXPLAINED, cursor, end_ns))
    return tuple(fitted)


def _join(parts: list[Part], part: Part) -> None:
    if parts and parts[-1].cause is part.cause:
        parts[-1] = Part(part.cause, parts[-1].start_ns, part.end_ns)
    else:
        parts.append(part)
