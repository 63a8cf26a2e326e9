"""Sets of spans of time: joined, cut with each other, and measured.

`overlap_lanes.py` asks with them which CPU work the device hides.
"""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]
"""Beginning and end, in nanoseconds."""


def joined(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that touch or overlap made one; empty ones are left out."""
    found: list[Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def common(one: list[Span], other: list[Span]) -> list[Span]:
    """What two joined lists have in common."""
    found: list[Span] = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if end > start:
            found.append((start, end))
        if one[i][1] <= other[j][1]:
            i += 1
        else:
            j += 1
    return found


def without(one: list[Span], other: list[Span]) -> list[Span]:
    """What a joined list has and another one has not."""
    found: list[Span] = []
    j = 0
    for start, end in one:
        at = start
        while j < len(other) and other[j][1] <= at:
            j += 1
        place = j
        while place < len(other) and other[place][0] < end:
            if other[place][0] > at:
                found.append((at, other[place][0]))
            at = max(at, other[place][1])
            place += 1
        if at < end:
            found.append((at, end))
    return found


def length(spans: Iterable[Span]) -> int:
    """Nanoseconds in all; the spans may not overlap."""
    return sum(end - start for start, end in spans)
