"""What a figure can be made from: a trace, or whatever holds one, as a replay does."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from learnsgl.trace.reader import Trace


class HasTrace(Protocol):
    """Something that was opened from a trace."""

    @property
    def trace(self) -> Trace:
        """The trace."""
        ...


Recording: TypeAlias = Trace | HasTrace


def trace_of(recording: Recording) -> Trace:
    """The trace of a recording."""
    return recording if isinstance(recording, Trace) else recording.trace
