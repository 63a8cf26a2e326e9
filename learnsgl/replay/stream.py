"""The events of one process, read from any place forward or backward: frames are decoded when they are asked for.

`seek.py`, `activity.py` and `replay.py` look around a moment with it. Decoded frames are kept while there is room, so
that looking at the same stretch again costs no decoding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from learnsgl.trace.events import Event, TraceKeyframe
from learnsgl.trace.index import Frame
from learnsgl.trace.reader import Entry, Trace

MAX_CACHED_BYTES = 64 << 20
"""Payloads of decoded frames that are kept, as compressed bytes times `EXPANSION`."""
EXPANSION = 12
MIN_CACHED_FRAMES = 8
Key = tuple[str, int, bool]
"""A frame: its file, its offset there, and whether it is the last of its process."""


class DecodedFrame(NamedTuple):
    """A frame's events.

    Attributes:
        first: number of the first one.
        events: in order; `None` for one of an unknown kind.
        moments: when each counts as done: an event is never earlier than one before it in its process.
        slices: numbers of the slices of keyframes among them.
    """

    first: int
    events: list[Event | None]
    moments: list[int]
    slices: list[int]


class FrameCache:
    """Decoded frames of all processes, the least recently used given up first."""

    def __init__(self) -> None:
        self._frames: OrderedDict[Key, DecodedFrame] = OrderedDict()
        self._sizes: dict[Key, int] = {}
        self._num_bytes = 0

    def get(self, key: Key) -> DecodedFrame | None:
        """A frame, if it is here."""
        found = self._frames.get(key)
        if found is not None:
            self._frames.move_to_end(key)
        return found

    def put(self, key: Key, frame: DecodedFrame, num_bytes: int) -> None:
        """Keep a frame whose payload takes so many bytes on disk."""
        self._frames[key] = frame
        self._sizes[key] = num_bytes * EXPANSION
        self._num_bytes += self._sizes[key]
        while self._num_bytes > MAX_CACHED_BYTES and len(self._frames) > MIN_CACHED_FRAMES:
            oldest, _ = self._frames.popitem(last=False)
            self._num_bytes -= self._sizes.pop(oldest)


class ProcessStream:
    """Random access to the events of one process.

    An event counts as done at its own moment, or at the latest moment of an event before it in its process, since
    some moments are taken a little before their events are recorded. So a state at a moment never holds an event
    without all those before it.

    Args:
        trace: the recording.
        name: the process.
        cache: where decoded frames are kept.

    Attributes:
        name: the process.
        first, last: numbers of its first and last event; `last` is `first - 1` where it has none.
    """

    def __init__(self, trace: Trace, name: str, cache: FrameCache) -> None:
        self.name = name
        self._trace = trace
        self._cache = cache
        self.frames: list[Frame] = [frame for frame in trace.process(name).frames if frame.header.num_events]
        self._starts = [frame.header.first for frame in self.frames]
        self._moments = list(accumulate((frame.header.first_ns for frame in self.frames), max))
        self.first = self._starts[0] if self.frames else 1
        self.last = self.frames[-1].header.last if self.frames else 0

    @property
    def start_ns(self) -> int:
        """When the first event counts as done."""
        return self._moments[0]

    def decoded(self, place: int) -> DecodedFrame:
        """The frame at this place in `frames`."""
        frame = self.frames[place]
        is_last = place + 1 == len(self.frames)  # its moments may change when others follow it
        key = frame.file, frame.offset, is_last
        found = self._cache.get(key)
        if found is None:
            found = self._decode(frame, place)
            self._cache.put(key, found, frame.header.payload_len)
        return found

    def _decode(self, frame: Frame, place: int) -> DecodedFrame:
        first = frame.header.first
        events: list[Event | None] = [None] * frame.header.num_events
        for number, event in self._trace.frame_events(frame):
            events[number - first] = event
        latest = accumulate((event.ns if event is not None else 0 for event in events), max)
        low = self._moments[place]
        high = self._moments[place + 1] if place + 1 < len(self.frames) else None
        moments = [max(low, ns) if high is None else min(max(low, ns), high) for ns in latest]
        slices = [number for number, event in enumerate(events, start=first) if type(event) is TraceKeyframe]
        return DecodedFrame(first, events, moments, slices)

    def place_of(self, number: int) -> int:
        """Place of the frame that holds an event, or of the one before it where the number is in a hole."""
        return max(0, bisect_right(self._starts, number) - 1)

    def has(self, number: int) -> bool:
        """Whether the recording holds the event with this number."""
        return bool(self.frames) and self.first <= number <= self.frames[self.place_of(number)].header.last

    def event(self, number: int) -> Event | None:
        """An event; `None` where it isn't there, or is of an unknown kind."""
        if not self.has(number):
            return None
        frame = self.decoded(self.place_of(number))
        return frame.events[number - frame.first]

    def moment(self, number: int) -> int:
        """When an event that is there counts as done, in nanoseconds."""
        frame = self.decoded(self.place_of(number))
        return frame.moments[number - frame.first]

    def position_at(self, ns: int) -> int:
        """Number of the last event that is done at this moment; `first - 1` before the first one."""
        place = bisect_right(self._moments, ns) - 1
        if place < 0:
            return self.first - 1
        frame = self.decoded(place)
        return frame.first + bisect_right(frame.moments, ns) - 1

    def after(self, number: int) -> int | None:
        """Number of the event that follows, over holes; `None` after the last one."""
        if number >= self.last:
            return None
        if self.has(number + 1):
            return number + 1
        place = bisect_right(self._starts, number)
        return self._starts[place] if place < len(self._starts) else None

    def before(self, number: int) -> int:
        """Number of the event before, over holes; `first - 1` before the first one."""
        if number <= self.first:
            return self.first - 1
        return number - 1 if self.has(number - 1) else self.frames[self.place_of(number - 1)].header.last

    def last_keyframe(self, number: int, lowest: int) -> int | None:
        """Where the last whole keyframe begins that ends at or before `number` and begins at or after `lowest`.

        A keyframe is whole when its slices follow each other without another event between them.
        """
        following: tuple[int, TraceKeyframe] | None = None
        for place in range(self.place_of(number) if self.frames else -1, -1, -1):
            if self.frames[place].header.last < lowest:
                return None
            frame = self.decoded(place)
            for at in reversed(frame.slices):
                found = frame.events[at - frame.first]
                if at > number or not isinstance(found, TraceKeyframe):
                    continue
                goes_on = following is not None and _is_next(at, found, *following)
                following = (at, found) if found.last or goes_on else None
                if following is not None and found.index == 0:
                    return at if at >= lowest else None
        return None

    def forward(self, start: int, stop: int | None = None) -> Iterator[Entry]:
        """The events from `start` up to, not with, `stop`, or to the end; unknown kinds are left out."""
        stop = self.last + 1 if stop is None else stop
        for place in range(self.place_of(start), len(self.frames)):
            if self._starts[place] >= stop:
                return
            frame = self.decoded(place)
            begin, end = max(0, start - frame.first), max(0, stop - frame.first)
            for index, event in enumerate(frame.events[begin:end], start=frame.first + begin):
                if event is not None:
                    yield Entry(self.name, index, event)

    def backward(self, start: int) -> Iterator[Entry]:
        """The events from `start` down to the first; unknown kinds are left out."""
        for place in range(self.place_of(start) if self.frames else -1, -1, -1):
            frame = self.decoded(place)
            for index in range(min(start - frame.first, len(frame.events) - 1), -1, -1):
                event = frame.events[index]
                if event is not None:
                    yield Entry(self.name, frame.first + index, event)


def _is_next(number: int, found: TraceKeyframe, next_number: int, following: TraceKeyframe) -> bool:
    """Whether a slice stands right before another one of the same keyframe."""
    return (number + 1, found.keyframe, found.index + 1) == (next_number, following.keyframe, following.index)
