"""Keyframes: the scheduler's whole state, written now and then, so that a trace can be checked and entered anywhere.

A keyframe is read from the live objects, so a change that nobody traced shows as soon as the fold of the events
meets it. It is written in slices, a bounded number of elements after each step; each slice is true for the moment at
which it was written. Keyframes are spaced so that they cost a fixed share of what the events cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from learnsgl.trace.events import TraceKeyframe
from learnsgl.trace.recorder import Recorder
from learnsgl.trace.state import PARTS, Columns, StateReader

UNBOUNDED = 1 << 62
"""End of the last slice of a part whose elements have no largest number."""

SLICE_ELEMENTS = {"scalars": 1, "queue": UNBOUNDED, "rows": 1024, "tables": 64, "refs": 16384, "nodes": 1024}
"""Elements of each part in one slice. The queue is one slice: its elements are few and come and go at both ends."""

SHARE = 8
"""Events must have written this many times the numbers of the last keyframe before the next one begins."""

NUMBERS_AN_EVENT = 16
"""How many numbers an event holds, roughly."""

MIN_ITERATIONS = 64
"""Fewest iterations between two keyframes, however small the state."""


class KeyframeWriter:
    """Decides when keyframes are written, and writes them slice by slice."""

    def __init__(self, reader: StateReader, recorder: Recorder, clock: Callable[[], int]) -> None:
        self._reader = reader
        self._recorder = recorder
        self._clock = clock
        self._number = 0
        self._slices: Iterator[None] | None = None
        self._num_events = recorder.num_events
        self._segment = recorder.segment
        self._num_iterations = 0
        self._last_size = 0

    def after_iteration(self) -> None:
        """Called once an iteration of the scheduler: write the next slice, or see whether a keyframe is due."""
        if not self._recorder.full:
            return
        self._num_iterations += 1
        if self._slices is None and self._is_due():
            self._slices = self._write()
        if self._slices is not None and next(self._slices, True):
            self._slices = None
            self._num_iterations = 0
            self._num_events = self._recorder.num_events

    def write_whole(self) -> None:
        """Write a whole keyframe at once; any that is under way is completed first."""
        if self._recorder.full:
            for _ in self._slices or ():
                pass
            self._slices = None
            for _ in self._write():
                pass

    def _is_due(self) -> bool:
        """Whether a new file has begun (it must be readable without the ones before it), or enough has happened."""
        if self._recorder.segment != self._segment:
            return True
        numbers = NUMBERS_AN_EVENT * (self._recorder.num_events - self._num_events)
        return self._num_iterations >= MIN_ITERATIONS and numbers >= SHARE * self._last_size

    def _write(self) -> Iterator[None]:
        """Write one keyframe; yields `False` after each slice but the last."""
        self._number += 1
        self._segment = self._recorder.segment
        self._last_size = 0
        index = 0
        for part in PARTS:
            extent, size = self._reader.extent(part), SLICE_ELEMENTS[part]
            for start in range(0, max(extent, 1), size):
                stop = min(start + size, extent)
                last = part == PARTS[-1] and stop >= extent
                if part in ("queue", "nodes") and stop >= extent:
                    stop = UNBOUNDED
                columns = self._reader.read(part, start, stop)
                self._emit(part, index, last, start, stop, columns)
                index += 1
                if not last:
                    yield None

    def _emit(self, part: str, index: int, last: bool, start: int, stop: int, columns: Columns) -> None:
        data = {name: np.ascontiguousarray(values, dtype="<i8").tobytes() for name, values in columns.items()}
        self._last_size += sum(len(values) for values in columns.values())
        self._recorder.emit(TraceKeyframe(self._clock(), self._number, part, index, last, start, stop, data))
