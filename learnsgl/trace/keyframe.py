"""Keyframes: the scheduler's whole state, written now and then, so that a trace can be checked and entered anywhere.

A keyframe is read from the live objects, so a change that nobody traced shows as soon as the fold of the events
meets it. A small one is written at once, and a reader can enter the trace there. A large one is written in slices,
one after each iteration, each true for its own moment: it proves as much and holds nobody up. Where a new file
begins, the keyframe is always whole, so that the file can be read without those before it. Keyframes are spaced so
that they cost a fixed share of what the events cost, but never so far apart that entering a trace takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from learnsgl.trace.events import TraceKeyframe
from learnsgl.trace.recorder import Recorder
from learnsgl.trace.state import PARTS, LiveReader

MAX_SLICES_AT_ONCE = 12
"""A keyframe of more slices than this is spread over iterations. 256 requests, 160,000 pages of one token and 1,100
nodes are 7 slices, which take 3 ms here and 6 ms when they are written; 12 slices are 4,000 nodes and a million pages,
and take some 10 ms here."""

SHARE = 8
"""Events must have written this many times the numbers of the last keyframe before the next one begins."""

NUMBERS_AN_EVENT = 16
"""How many numbers an event holds, roughly."""

MAX_EVENTS = 12_000
"""Most events between two keyframes, so that a reader never folds more of them to get anywhere: 0.3 s. At 256 requests
and 10 ms a step these are 6 s or more, of which the keyframe's 9 ms are 0.15%; it adds a third to the file."""

MIN_ITERATIONS = 64
"""Fewest iterations between two keyframes, however small the state."""


class KeyframeWriter:
    """Decides when keyframes are written, and writes them slice by slice."""

    def __init__(self, reader: LiveReader, recorder: Recorder, clock: Callable[[], int]) -> None:
        self._reader = reader
        self._recorder = recorder
        self._clock = clock
        self._number = 0
        self._slices: Iterator[bool] | None = None
        self._num_events = recorder.num_events
        self._segment = recorder.segment
        self._num_iterations = 0
        self._last_size = 0

    def begin(self) -> None:
        """A recording has begun while the scheduler runs: its first keyframe goes ahead of everything else."""
        self._number, self._slices = 0, None
        self.write_whole()

    def after_iteration(self) -> None:
        """Called once an iteration of the scheduler: write the next slice, or see whether a keyframe is due."""
        if not self._recorder.full:
            return
        self._num_iterations += 1
        if self._recorder.segment != self._segment:
            self.write_whole()
        elif self._slices is not None:
            self._go_on()
        elif self._is_due():
            slices = self._plan()
            if len(slices) <= MAX_SLICES_AT_ONCE:
                self.write_whole()
            else:
                self._slices = self._write(slices)
                self._go_on()

    def write_whole(self) -> None:
        """Write a whole keyframe at once; one that was being written slice by slice is given up."""
        if self._recorder.full:
            self._slices = self._write(self._plan())
            while self._slices is not None:
                self._go_on()

    def _go_on(self) -> None:
        assert self._slices is not None
        if next(self._slices):
            self._slices = None

    def _is_due(self) -> bool:
        num_events = self._recorder.num_events - self._num_events
        is_cheap = NUMBERS_AN_EVENT * num_events >= SHARE * self._last_size
        return self._num_iterations >= MIN_ITERATIONS and (is_cheap or num_events >= MAX_EVENTS)

    def _plan(self) -> list[tuple[str, int, int]]:
        """The slices of a keyframe that begins now: part, and range of its elements."""
        return [(part, *bounds) for part in PARTS for bounds in self._reader.ranges(part)]

    def _write(self, slices: list[tuple[str, int, int]]) -> Iterator[bool]:
        """Write one keyframe; yields after each slice whether it was the last."""
        self._number += 1
        self._segment = self._recorder.segment
        size = 0
        for index, (part, start, stop) in enumerate(slices):
            last = index == len(slices) - 1
            columns = self._reader.read(part, start, stop)
            size += sum(len(values) for values in columns.values())
            data = {name: np.ascontiguousarray(values, dtype="<i8").tobytes() for name, values in columns.items()}
            self._recorder.emit(TraceKeyframe(self._clock(), self._number, part, index, last, start, stop, data))
            if last:
                self._last_size, self._num_iterations = size, 0
                self._num_events = self._recorder.num_events
            yield last
