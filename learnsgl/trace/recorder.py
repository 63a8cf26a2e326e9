"""Every process's way into the trace: events are kept in a list and written in frames when the process is idle."""

from __future__ import annotations

from learnsgl.config import TraceLevel
from learnsgl.trace.events import Event


class Recorder:
    """Records the events of one process.

    Callers guard each event with the attribute of its level, so that recording nothing costs one `if`:

        if recorder.full:
            recorder.emit(events.CacheTouched(recorder.now(), node, clock))

    Attributes:
        steps, full, tokens: whether events of that level are recorded.
    """

    def __init__(self, level: TraceLevel) -> None:
        order = list(TraceLevel)
        rank = order.index(level)
        self.steps = rank >= order.index(TraceLevel.STEPS)
        self.full = rank >= order.index(TraceLevel.FULL)
        self.tokens = rank >= order.index(TraceLevel.TOKENS)

    def emit(self, event: Event) -> None:
        """Append one event."""

    def flush_if_due(self) -> None:
        """Write what is pending, where 512 events or 50 ms have gathered; called where the process waits anyway."""

    def flush(self) -> None:
        """Write what is pending."""

    def close(self) -> None:
        """Record `process.ended`, write what is pending and close the file."""
