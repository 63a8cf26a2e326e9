"""What the checks share: the shape of a check, and what excuses that something is missing.

`verify.py` makes one `Scope`, hands it to every check, and gives each event to the checks that ask for its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from learnsgl.config import TraceLevel
from learnsgl.core import ReqKey
from learnsgl.errors import TraceViolation
from learnsgl.trace import events
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Entry, Trace, kind_of

Handler = Callable[[Entry, Any], None]


class Place(NamedTuple):
    """Where an event stands, kept without the event itself.

    Attributes:
        ns: its moment.
        process, number, kind: what names it.
    """

    ns: int
    process: str
    number: int
    kind: str

    def violation(self, text: str) -> TraceViolation:
        """The error that this event contradicts the trace."""
        return TraceViolation(f"{self.process}, event {self.number} ({self.kind}): {text}")


class Missing(NamedTuple):
    """Something that never came, found at the end: the event that needs it, and what."""

    place: Place
    text: str


def place_of(entry: Entry) -> Place:
    """Where an entry stands."""
    return Place(entry.event.ns, entry.process, entry.number, kind_of(entry.event))


def violation(entry: Entry, text: str) -> TraceViolation:
    """The error that this event contradicts the trace."""
    return place_of(entry).violation(text)


class Check(Protocol):
    """One subject of the verification."""

    def handlers(self) -> dict[type[Event], Handler]:
        """The kinds it asks for; a handler raises TraceViolation."""
        ...

    def finish(self) -> Iterator[Missing]:
        """After the last event: all that is missing without a recorded reason."""
        ...

    def proved(self) -> list[str]:
        """What holds, with counts, a line each."""
        ...


class Scope:
    """What every check may lean on: the level, and each recorded reason for something to be missing.

    Attributes:
        trace: the trace that is verified.
        full: whether messages, pages and the cache were recorded.
        late: processes whose first events are missing: dropped by the limit on size, or recording began later.
        dropped: processes that recorded `trace.dropped`, with its latest moment.
        ended_ns: when a process recorded its end.
        lost: processes that died, by the parent's word.
        notes: what could not be proved, for the report.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.full = trace.level in (TraceLevel.FULL, TraceLevel.TOKENS)
        self.late = {name for name in trace.processes if trace.begins_late(name)}
        self.dropped: dict[str, int] = {}
        self.ended_ns: dict[str, int] = {}
        self.lost: set[str] = set()
        self.notes: list[str] = []

    def handlers(self) -> dict[type[Event], Handler]:
        """The kinds from which it learns; `verify.py` calls these before the checks' own."""
        return {
            events.TraceBegin: self._begin,
            events.TraceDropped: self._dropped,
            events.ProcessEnded: self._ended,
            events.ProcessLost: self._lost,
        }

    def is_cut(self, process: str) -> bool:
        """Whether a process's last events may be missing: it was killed, still runs, or recorded nothing at all."""
        return process not in self.trace.processes or process in self.lost or self.trace.is_cut(process)

    def has_holes(self, process: str) -> bool:
        """Whether a process's first events, or some in the middle, are missing for a recorded reason."""
        return process in self.late or process in self.dropped

    def in_hole(self, process: str, ns: int) -> bool:
        """Whether what a process did from this moment on may be in a part that is missing for a recorded reason."""
        if ns <= self.dropped.get(process, -1):
            return True
        return process in self.late and ns <= self._first_ns(process)

    def _first_ns(self, process: str) -> int:
        return min((frame.header.first_ns for frame in self.trace.process(process).frames[:1]), default=0)

    def named(self, role: str) -> list[str]:
        """Processes that do a role's job."""
        return [name for name in self.trace.processes if self.trace.process(name).does(role)]

    def _begin(self, entry: Entry, event: events.TraceBegin) -> None:
        if event.late:
            self.late.add(entry.process)

    def _dropped(self, entry: Entry, event: events.TraceDropped) -> None:
        self.dropped[entry.process] = event.ns

    def _ended(self, entry: Entry, event: events.ProcessEnded) -> None:
        self.ended_ns[entry.process] = event.ns

    def _lost(self, entry: Entry, event: events.ProcessLost) -> None:
        self.lost.add(event.name)


def ints(data: bytes, dtype: str) -> npt.NDArray[Any]:
    """An array field's elements; little-endian, whatever this machine is."""
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))


def keys_of(entry: Entry, uids: bytes, choices: bytes) -> list[ReqKey]:
    """The requests that an event of arrays names.

    Raises:
        TraceViolation: the two arrays don't belong together.
    """
    if len(uids) % 8 or len(choices) % 4 or len(uids) // 8 != len(choices) // 4:
        raise violation(entry, f"{len(uids)} bytes of uids (int64) and {len(choices)} of choices (int32) don't match")
    return [ReqKey(*pair) for pair in zip(ints(uids, "i8").tolist(), ints(choices, "i4").tolist(), strict=True)]
