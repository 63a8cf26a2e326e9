"""What a figure can be made from: a trace, or whatever holds one, as a replay does."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from learnsgl.trace.reader import Trace
from learnsgl.viz.words import listed


class HasTrace(Protocol):
    """Something that was opened from a trace."""

    @property
    def trace(self) -> Trace:
        """The trace."""
        ...


Recording: TypeAlias = Trace | HasTrace


def missing_notes(trace: Trace) -> list[str]:
    """What the recording says to be missing at its beginning and its end, as sentences."""
    late = [name for name in trace.processes if trace.begins_late(name)]
    cut = [name for name in trace.processes if trace.is_cut(name)]
    notes = [f"The first events of {listed(late)} are missing: the limit on size has removed them."] if late else []
    if cut:
        notes.append(f"The recording of {listed(cut)} has no end: it was cut off, or is still being written.")
    return notes


def trace_of(recording: Recording) -> Trace:
    """The trace of a recording."""
    return recording if isinstance(recording, Trace) else recording.trace
