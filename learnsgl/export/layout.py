"""Which groups, tracks and lanes there are, and how the numbers of an event become a viewer's arguments.

`telling.py` asks for a track when the first thing lies on it, so that a trace of level `steps` has no empty ones.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

from learnsgl.export.tracks import Args, Group, Item, Track, TrackKind
from learnsgl.trace.checks.base import ints
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Trace
from learnsgl.trace.schema import array_fields

MAX_LISTED = 16
"""Elements of an array that are shown."""
REQUESTS = "requests"


class Lanes:
    """Tracks for things of one sort: another one is added where things overlap in time.

    Args:
        new_track: makes the track of a place, counted from 0.
    """

    def __init__(self, new_track: Callable[[int], Track]) -> None:
        self._new_track = new_track
        self._tracks: list[Track] = []
        self._ends: list[int] = []

    @property
    def first(self) -> Track:
        """The first of them."""
        if not self._tracks:
            self._add(0)
        return self._tracks[0]

    @property
    def end_ns(self) -> int:
        """When the last thing on the first track has ended."""
        return self._ends[0] if self._ends else 0

    def place(self, start_ns: int, end_ns: int) -> Track:
        """The first track that is free from then on; it is taken until then."""
        for place, busy_ns in enumerate(self._ends):
            if busy_ns <= start_ns:
                self._ends[place] = end_ns
                return self._tracks[place]
        self._add(end_ns)
        return self._tracks[-1]

    def _add(self, end_ns: int) -> None:
        self._tracks.append(self._new_track(len(self._tracks)))
        self._ends.append(end_ns)


class Layout:
    """Numbers groups and tracks, and keeps those that nobody has been told of yet."""

    def __init__(self, trace: Trace) -> None:
        self._ids = itertools.count(1)
        self._untold: list[Item] = []
        self._requests: Group | None = None
        self._num_requests = 0
        self._next_pid = max((_pid(trace, name) or 0 for name in trace.processes), default=0) + 1
        self.processes: dict[str, Group] = {}
        taken: list[int | None] = []
        for rank, name in enumerate(trace.processes):
            pid = _pid(trace, name)
            if pid is None or pid in taken:  # a header that can't be read, or an id that was used again
                pid = self._made_up_pid()
            taken.append(pid)
            self.processes[name] = self._group(_title(trace, name), pid, rank, is_process=True)

    def untold(self) -> list[Item]:
        """Groups and tracks that were made since the last time."""
        made, self._untold = self._untold, []
        return made

    def lanes(self, process: str, name: str, kind: TrackKind, rank: int) -> Lanes:
        """Lanes of a process; the first is called `name`, the others are numbered from 2."""
        group = self.processes[process]

        def new_track(place: int) -> Track:
            lane_kind = kind if place == 0 else TrackKind.LANE
            return self._track(group, name if place == 0 else f"{name} ({place + 1})", lane_kind, rank + place)

        return Lanes(new_track)

    def counter(self, process: str, name: str, unit: str, rank: int) -> Track:
        """A counter of a process."""
        return self._track(self.processes[process], name, TrackKind.COUNTER, rank, unit)

    def request(self, name: str) -> Track:
        """The track of a request."""
        if self._requests is None:
            pid, rank = self._made_up_pid(), len(self.processes)
            self._requests = self._group(REQUESTS, pid, rank, is_process=False)
        self._num_requests += 1
        return self._track(self._requests, name, TrackKind.REQUEST, self._num_requests)

    def _made_up_pid(self) -> int:
        self._next_pid += 1
        return self._next_pid - 1

    def _group(self, name: str, pid: int, rank: int, *, is_process: bool) -> Group:
        group = Group(next(self._ids), name, pid, is_process, rank)
        self._untold.append(group)
        return group

    def _track(self, group: Group, name: str, kind: TrackKind, rank: int, unit: str = "") -> Track:
        track = Track(next(self._ids), group, name, kind, rank, unit)
        self._untold.append(track)
        return track


def args_of(event: Event) -> Args:
    """The numbers of an event, by the names of their fields; of arrays the first few elements."""
    plain, arrays = _shown_fields(type(event))
    args: Args = {}
    for name in plain:
        value = getattr(event, name)
        if isinstance(value, dict):
            args |= {f"{name}.{key}": item for key, item in value.items() if isinstance(item, (int, float, str))}
        elif isinstance(value, list):
            args[name] = ", ".join(str(item) for item in value[:MAX_LISTED])
        elif value is not None:
            args[name] = value
    for name, dtype in arrays:
        args[name] = listed(ints(getattr(event, name), dtype).tolist())
    return args


def listed(values: list[int]) -> str:
    """The first few of some numbers, as text."""
    more = f", … ({len(values)} in all)" if len(values) > MAX_LISTED else ""
    return ", ".join(str(value) for value in values[:MAX_LISTED]) + more


@functools.cache
def _shown_fields(kind: type[Event]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Names of plain fields, and of arrays with their dtypes; moments and digests are left out."""
    arrays = array_fields(kind)
    shown = [name for name in kind.__struct_fields__ if not name.endswith("_ns") and "digest" not in name]
    plain = tuple(name for name in shown if name != "ns" and name not in arrays)
    return plain, tuple((name, arrays[name]) for name in shown if name in arrays and name != "choices")


def _pid(trace: Trace, process: str) -> int | None:
    pid = trace.process(process).fact("pid")
    return pid if isinstance(pid, int) and pid > 0 else None


def _title(trace: Trace, process: str) -> str:
    """A process's name, and its role where that says more."""
    role = trace.process(process).fact("role")
    return f"{process} ({role})" if isinstance(role, str) and not process.startswith(role) else process
