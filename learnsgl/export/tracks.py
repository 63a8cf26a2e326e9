"""What a viewer of timelines shows, whatever its format: groups of tracks, and on them slices, instants and samples.

`telling.py` turns a trace into these; `perfetto.py` and `chrome.py` write them, so the two can't drift apart.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

Value = int | float | str | bool
Args = dict[str, Value]


class Group(NamedTuple):
    """Tracks that belong together: those of a process, or those of all requests.

    Attributes:
        id: its number among all groups and tracks.
        name: what stands above it.
        pid: id of the operating system's process, unique among the groups; made up where it isn't known.
        is_process: whether it is a process; otherwise it is the group of the requests.
        rank: its place from the top.
    """

    id: int
    name: str
    pid: int
    is_process: bool
    rank: int


class TrackKind(Enum):
    """What lies on a track."""

    THREAD = "thread"
    """What the main thread of a process did."""
    LANE = "lane"
    """Something else of a process: its messages, its device."""
    REQUEST = "request"
    """One request."""
    COUNTER = "counter"
    """A number that changes."""


class Track(NamedTuple):
    """A row of the timeline.

    Attributes:
        id: its number among all groups and tracks.
        group: the group that it is in.
        name: what stands beside it.
        kind: what lies on it.
        rank: its place in the group, from the top.
        unit: of a counter's values; empty for other tracks.
    """

    id: int
    group: Group
    name: str
    kind: TrackKind
    rank: int
    unit: str = ""


class Slice(NamedTuple):
    """Something that took time. Slices of a track never overlap, except as children.

    Attributes:
        track: where it lies.
        name: what was done.
        start_ns, end_ns: when, on `time.monotonic_ns`.
        category: family, to filter by.
        args: its numbers, by name.
        children: slices within it, in order, on the same track.
        flow_out: id of the arrow that begins here, if any.
        flow_in: id of the arrow that ends here, if any.
    """

    track: Track
    name: str
    start_ns: int
    end_ns: int
    category: str
    args: Args
    children: tuple[Slice, ...] = ()
    flow_out: int | None = None
    flow_in: int | None = None


class Instant(NamedTuple):
    """Something that happened at a moment.

    Attributes:
        track, name, ns, category, args: as of a slice.
    """

    track: Track
    name: str
    ns: int
    category: str
    args: Args


class Sample(NamedTuple):
    """The value of a counter from a moment on.

    Attributes:
        track: the counter.
        ns: when.
        value: the value.
    """

    track: Track
    ns: int
    value: int | float


Item = Group | Track | Slice | Instant | Sample
"""Groups and tracks come before what lies on them. Both ends of an arrow are there, the outgoing one first."""
