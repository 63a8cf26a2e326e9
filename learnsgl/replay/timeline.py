"""The events of all processes in one order, and the places between them: what `replay.py` moves about on.

The order is that of `Trace.events()`: by moment, then by name of the process, then by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from learnsgl.errors import OptionError, TraceError
from learnsgl.replay.stream import FrameCache, ProcessStream
from learnsgl.trace import events
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Entry, Trace

Positions = Mapping[str, int]
"""Number of the last event of each process that has happened."""


class Place(NamedTuple):
    """An event's place in the order of all: its moment, its process, its number."""

    ns: int
    process: str
    number: int


class Timeline:
    """The events of all processes.

    Args:
        trace: the recording.
        cache: where decoded frames are kept.

    Attributes:
        streams: the events of each process.
        start_ns, end_ns: moments of the first and the last event.

    Raises:
        TraceError: not a single event was recorded.
    """

    def __init__(self, trace: Trace, cache: FrameCache) -> None:
        self.streams = {name: ProcessStream(trace, name, cache) for name in trace.processes}
        filled = [stream for stream in self.streams.values() if stream.frames]
        if not filled:
            raise TraceError(f"{trace.path}: not a single event was recorded, so there is no moment to show")
        self.start_ns = min(stream.start_ns for stream in filled)
        self.end_ns = max(stream.moment(stream.last) for stream in filled)

    def event(self, process: str, number: int) -> Event | None:
        """An event; `None` where it isn't there, or is of an unknown kind."""
        return self.streams[process].event(number) if process in self.streams else None

    def place_of(self, process: str, number: int) -> Place:
        """The place of an event.

        Raises:
            OptionError: the recording hasn't got it.
        """
        stream = self.streams.get(process)
        if stream is None:
            raise OptionError(f"no process is called {process!r}; the recording has: {', '.join(self.streams)}")
        if not stream.has(number):
            there = f"{stream.first} to {stream.last}" if stream.frames else "none"
            raise OptionError(f"{process} has no event {number} in the recording; the events in it: {there}")
        return Place(stream.moment(number), process, number)

    def positions_at(self, ns: int) -> dict[str, int]:
        """After all that is done at a moment."""
        return {name: stream.position_at(ns) for name, stream in self.streams.items()}

    def positions_after(self, place: Place) -> dict[str, int]:
        """After an event, and before any other that follows it."""
        positions = {  # at the same nanosecond, the name decides
            name: stream.position_at(place.ns if name < place.process else place.ns - 1)
            for name, stream in self.streams.items()
        }
        positions[place.process] = place.number
        return positions

    def newest(self, positions: Positions) -> Place | None:
        """The last event that has happened."""
        places = [
            Place(stream.moment(positions[name]), name, positions[name])
            for name, stream in self.streams.items()
            if positions.get(name, 0) >= stream.first
        ]
        return max(places, default=None)

    def following(self, positions: Positions) -> Place | None:
        """The next event."""
        places = [
            Place(stream.moment(number), name, number)
            for name, stream in self.streams.items()
            if (number := stream.after(positions.get(name, 0))) is not None
        ]
        return min(places, default=None)

    def preceding(self, positions: Positions) -> Place | None:
        """The event before the last one that has happened."""
        newest = self.newest(positions)
        return None if newest is None else self.newest(self._without(positions, newest))

    def _without(self, positions: Positions, newest: Place) -> Positions:
        return {**positions, newest.process: self.streams[newest.process].before(newest.number)}

    def find_after(
        self, positions: Positions, wanted: Callable[[Entry], bool], processes: Iterable[str] | None = None
    ) -> Place | None:
        """The first event that is yet to come and is wanted, of some processes or of all."""
        best: Place | None = None
        for name in self.streams if processes is None else processes:
            stream = self.streams[name]
            for entry in stream.forward(positions.get(name, 0) + 1):
                place = Place(stream.moment(entry.number), name, entry.number)
                if best is not None and place > best:
                    break
                if wanted(entry):
                    best = place
                    break
        return best

    def find_before(
        self, positions: Positions, wanted: Callable[[Entry], bool], processes: Iterable[str] | None = None
    ) -> Place | None:
        """The last event before the newest one that is wanted, of some processes or of all."""
        newest = self.newest(positions)
        if newest is None:
            return None
        before = self._without(positions, newest)
        best: Place | None = None
        for name in self.streams if processes is None else processes:
            stream = self.streams[name]
            for entry in stream.backward(before.get(name, 0)):
                place = Place(stream.moment(entry.number), name, entry.number)
                if best is not None and place < best:
                    break
                if wanted(entry):
                    best = place
                    break
        return best


def step_range(stream: ProcessStream) -> range:
    """Numbers of the steps that a scheduler submitted within the recording, which are without gaps."""
    first = next(_steps(stream.forward(stream.first)), None)
    last = next(_steps(stream.backward(stream.last)), None)
    return range(0) if first is None or last is None else range(first[1], last[1] + 1)


def step_position(stream: ProcessStream, step: int) -> int | None:
    """Number of the event by which a scheduler submitted a step; `None` where the recording hasn't got it.

    It looks into a few frames only, since steps ascend.
    """
    low, high = 0, len(stream.frames)
    answer: int | None = None
    while low < high:
        middle = (low + high) // 2
        probe, last = middle, None
        while probe < high and (last := _last_step(stream, probe)) is None:
            probe += 1
        if last is None:
            high = middle
        elif last < step:
            low = probe + 1
        else:
            answer, high = probe, middle
    if answer is None:
        return None
    frame = stream.frames[answer].header
    steps = _steps(stream.forward(frame.first, frame.last + 1))
    return next((number for number, found in steps if found == step), None)


def _last_step(stream: ProcessStream, place: int) -> int | None:
    for event in reversed(stream.decoded(place).events):
        if isinstance(event, events.SchedStep):
            return event.step
    return None


def _steps(entries: Iterable[Entry]) -> Iterator[tuple[int, int]]:
    return ((entry.number, entry.event.step) for entry in entries if isinstance(entry.event, events.SchedStep))
