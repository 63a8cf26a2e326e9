"""Every process's way into the trace: events are kept in a list and written in frames when the process is idle.

Recording an event costs about a microsecond, since it is only appended; encoding, compressing and writing happen in
`flush_if_due`, which a process calls where it waits anyway. Call all of it from the process's main thread only:
there is no lock.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from learnsgl.config import TraceConfig, TraceLevel
from learnsgl.trace import events
from learnsgl.trace.events import Event
from learnsgl.trace.manifest import run_id_of
from learnsgl.trace.segments import Identity, SegmentWriter

FRAME_EVENTS = 512
FRAME_NS = 50_000_000
MAX_PENDING_EVENTS = 8192
"""At so many the recorder writes by itself, or, while the disk takes nothing, drops them and counts them."""
RETRY_NS = 1_000_000_000

logger = logging.getLogger(__name__)


class Recorder:
    """Records the events of one process.

    Callers guard each event with the attribute of its level, so that recording nothing costs one `if`:

        if recorder.full:
            recorder.emit(events.CacheTouched(recorder.now(), node, clock))

    A disk that takes no more never raises here: events wait, then are dropped and counted, and the first frame that
    can be written again begins with `trace.dropped`.

    Attributes:
        steps, full, tokens: whether events of that level are recorded.
        num_lost: events of this recording that could not be written, and are lost.

    Args:
        level: how much the callers are to record.
        writer: where frames go; without one, events are forgotten.
    """

    now = staticmethod(time.monotonic_ns)

    def __init__(self, level: TraceLevel, writer: SegmentWriter | None = None) -> None:
        self._set_level(level)
        self._writer = writer
        self._pending: list[Event] = []
        self._ceiling = MAX_PENDING_EVENTS if writer is not None else 1
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_plain_number)
        self._next = 1
        """Number of the first pending event, unless `trace.dropped` goes before it."""
        self._lost_first: int | None = None
        self._failure: str | None = None
        self._retry_at_ns = 0
        self.num_lost = 0

    @property
    def run_id(self) -> str | None:
        """Id of the run that is being recorded; `None` while nothing is. Another thread may ask."""
        writer = self._writer
        return None if writer is None else writer.run_id

    @property
    def failure(self) -> str | None:
        """Why the recording can't be written at this moment; `None` while it can. Another thread may ask."""
        return self._failure

    @property
    def num_events(self) -> int:
        """Number of the last event."""
        return self._next - 1 + len(self._pending)

    @property
    def segment(self) -> int:
        """Index of the file that is being written; a new one must be readable without those before it."""
        return self._writer.index if self._writer is not None else 0

    def begin(self, level: TraceLevel, writer: SegmentWriter) -> None:
        """Record from now on; for a recorder that has recorded nothing yet, or was closed."""
        self._set_level(level)
        self._writer = writer
        self._ceiling = MAX_PENDING_EVENTS
        self._pending.clear()
        self._next, self._lost_first, self._failure, self.num_lost = 1, None, None, 0

    def _set_level(self, level: TraceLevel) -> None:
        order = list(TraceLevel)
        rank = order.index(level)
        self.steps = rank >= order.index(TraceLevel.STEPS)
        self.full = rank >= order.index(TraceLevel.FULL)
        self.tokens = rank >= order.index(TraceLevel.TOKENS)

    def emit(self, event: Event) -> None:
        """Append one event; it must not be changed afterwards."""
        pending = self._pending
        pending.append(event)
        if len(pending) >= self._ceiling:
            self._relieve()

    def flush_if_due(self) -> None:
        """Write what is pending, where 512 events or 50 ms have gathered; called where the process waits anyway."""
        pending = self._pending
        if pending and (len(pending) >= FRAME_EVENTS or time.monotonic_ns() - pending[0].ns >= FRAME_NS):
            self.flush()

    def flush(self) -> None:
        """Write what is pending; after a failure, not before a second has passed."""
        if self._failure is None or time.monotonic_ns() >= self._retry_at_ns:
            self._write()

    def close(self, *, in_order: bool = True) -> None:
        """Record `process.ended`, write what is pending and close the file; later events are forgotten.

        Args:
            in_order: whether the work has ended as it should; otherwise the recording stops without `process.ended`,
                as a killed process's does.
        """
        if self._writer is None:
            return
        self._write()
        if self._pending:  # a full disk: the end, and which events are missing before it, may still fit
            self._forget()
        if in_order:
            self._pending.append(events.ProcessEnded(self.now()))
            self._write()
        if self._pending:
            num_lost = self._next + len(self._pending) - (self._lost_first or self._next)
            logger.warning("the trace ends early: its last %d events could not be written", num_lost)
        self._writer.close()
        self._writer = None
        self._pending.clear()
        self._ceiling = 1
        self.steps = self.full = self.tokens = False

    def _write(self) -> None:
        if self._writer is None or not self._pending:
            return
        batch = self._pending
        if self._lost_first is not None:
            reason = self._failure or "unknown"
            batch = [events.TraceDropped(self.now(), reason, self._lost_first, self._next - 1), *batch]
        payload = self._encoder.encode(batch)
        last = self._next + len(batch) - 1
        try:
            self._writer.write(payload, self._next, last, batch[0].ns)
        except OSError as error:
            self._note_failure(error)
            return
        self._next = last + 1
        self._pending.clear()
        if self._failure is not None:
            logger.warning("the trace is being recorded again")
        self._failure = self._lost_first = None

    def _note_failure(self, error: OSError) -> None:
        if self._failure is None:
            logger.warning("the trace can't be written (%s); the server goes on, and so will the trace", error)
        self._failure = error.strerror or str(error)
        self._retry_at_ns = time.monotonic_ns() + RETRY_NS

    def _relieve(self) -> None:
        """The list has reached its ceiling: write it, or forget it where it can't be written."""
        if self._writer is not None:
            self.flush()
        if len(self._pending) >= self._ceiling:
            self._forget()

    def _forget(self) -> None:
        """Drop what is pending, and count it as lost."""
        if self._writer is not None:
            if self._lost_first is None:
                self._lost_first = self._next
            self._next += len(self._pending)
            self.num_lost += len(self._pending)
        self._pending.clear()


class MemoryRecorder(Recorder):
    """Keeps events in a list, for tests and for traces of virtual time.

    Attributes:
        events: all events so far; the event with number n is `events[n - 1]`.
    """

    def __init__(self, level: TraceLevel = TraceLevel.FULL) -> None:
        super().__init__(level)
        self.events: list[Event] = []

    @property
    def num_events(self) -> int:
        """Number of the last event."""
        return len(self.events)

    def emit(self, event: Event) -> None:
        """Append one event."""
        self.events.append(event)


def open_recorder(folder: Path | None, config: TraceConfig, name: str, role: str, *, late: bool = False) -> Recorder:
    """A recorder for this process, whose first events are `process.started` and `trace.begin`.

    Args:
        folder: the run's folder, from `manifest.create_run`; `None` records nothing.
        config: level and limits.
        name: unique name of the process in the run: api, tokenizer-0, scheduler-0, detokenizer.
        role: api, tokenizer, scheduler or detokenizer.
        late: the process has state already, and a keyframe follows.
    """
    recorder = Recorder(TraceLevel.OFF)
    if folder is not None and config.trace_level is not TraceLevel.OFF:
        begin_recording(recorder, folder, config, name, role, late=late)
    return recorder


def begin_recording(recorder: Recorder, folder: Path, config: TraceConfig, name: str, role: str, *, late: bool) -> None:
    """Have a recorder that records nothing begin, with `process.started` and `trace.begin`.

    Args:
        recorder: the process's.
        folder, config, name, role, late: as for `open_recorder`.
    """
    identity = Identity(run_id_of(folder), name, role, os.getpid(), config.trace_level.value)
    recorder.begin(
        config.trace_level, SegmentWriter(folder, identity, config.trace_segment_bytes, config.trace_max_bytes)
    )
    recorder.emit(events.ProcessStarted(recorder.now(), name, role, os.getpid(), os.getppid()))
    recorder.emit(events.TraceBegin(recorder.now(), config.trace_level.value, late))
    recorder.flush()


def _plain_number(value: Any) -> Any:
    """Numpy's scalars count as the numbers they hold; anything else that msgspec refuses is a mistake of ours."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"an event holds {value!r} of type {type(value).__name__}; give plain numbers, text or bytes")
