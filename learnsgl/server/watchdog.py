"""Finding a worker that no longer works although it isn't dead: stopped, held by the system, or stuck in its loop.

A thread of each worker beats: it writes into a pipe to the parent, again and again, and each beat tells what the
worker's loop does at that moment, and its recording. In the parent `serving.py` runs the `Watchdog`, which hears the
beats; `tracing.py` asks it how far the workers' recordings are.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from multiprocessing.connection import Connection

import msgspec

from learnsgl.message.mailbox import Loop
from learnsgl.trace.recorder import Recorder

BEATS_WITHIN_LIMIT = 4
LONGEST_INTERVAL_S = 1.0
MAX_BEAT_BYTES = 4096
"""A pipe takes so much at once, or nothing: a worker that is killed while it beats leaves no half of a beat."""
_MAX_WORDS = 200


class Beat(msgspec.Struct, array_like=True, frozen=True):
    """What a worker says of itself.

    Attributes:
        turn: how often its loop has got something done.
        is_waiting: whether its loop waits for messages.
        run_id: of the recording that it writes; `None` while it writes none.
        trace_failure: why its recording can't be written at this moment; `None` while it can.
        num_lost_events: events that its recording lacks for that reason.
    """

    turn: int
    is_waiting: bool
    run_id: str | None = None
    trace_failure: str | None = None
    num_lost_events: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Beat)


def interval_s(limit_s: float) -> float:
    """Seconds between two beats of a worker that may be silent for `limit_s`."""
    return min(LONGEST_INTERVAL_S, limit_s / BEATS_WITHIN_LIMIT)


class Pulse:
    """The worker's end.

    Args:
        pipe: writing end of the pipe to the parent.
        loop: what its loop does.
        recorder: its part of the trace.
    """

    def __init__(self, pipe: Connection, loop: Loop, recorder: Recorder) -> None:
        self._pipe = pipe
        self._loop = loop
        self._recorder = recorder
        self._lock = threading.Lock()
        """Two threads beat, and the later beat must not tell of an earlier moment."""

    def start(self, limit_s: float) -> None:
        """Beat on a thread from now on, until this process or its parent has ended.

        Args:
            limit_s: how long the parent lets this process be silent.
        """
        threading.Thread(target=self._run, args=(interval_s(limit_s),), name="pulse", daemon=True).start()

    def beat(self) -> None:
        """Beat once, at once: what the parent waits for has changed."""
        with contextlib.suppress(OSError):  # the parent is gone, and another thread ends this process
            self._send()

    def _run(self, every_s: float) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._send()
                time.sleep(every_s)

    def _send(self) -> None:
        recorder = self._recorder
        with self._lock:
            failure = recorder.failure
            beat = Beat(
                self._loop.turn,
                self._loop.is_waiting,
                recorder.run_id,
                failure and failure[:_MAX_WORDS],
                recorder.num_lost,
            )
            self._pipe.send_bytes(_encoder.encode(beat))


class Fault(Enum):
    """What is wrong with a worker that hasn't ended."""

    SILENT = "silent"
    """It doesn't run: no thread of it beats."""
    STUCK = "stuck"
    """It runs, but its loop has done nothing for too long, and doesn't wait for messages either."""


class _Watched:
    """What was heard of one worker."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.last: Beat | None = None
        self.silent_s = 0.0
        self.busy_s = 0.0
        self.is_over = False
        """Whether it has ended, or was told of: nothing more is asked of it."""
        self._has_beaten = False
        self._has_moved = False

    def hear(self) -> None:
        """Take the beats that have come."""
        try:
            while not self.is_over and self.pipe.poll():
                self._take(_decoder.decode(self.pipe.recv_bytes(MAX_BEAT_BYTES)))
        except (EOFError, OSError, msgspec.MsgspecError):  # its death is told by its sentinel
            self.is_over = True

    def _take(self, beat: Beat) -> None:
        self._has_beaten = True
        self._has_moved |= beat.is_waiting or self.last is None or beat.turn != self.last.turn
        self.last = beat

    def pass_time(self, seconds: float) -> None:
        """So much time has passed since this was called before; what was heard meanwhile is in."""
        unheard_s = self.silent_s + seconds
        if not self._has_beaten:
            self.silent_s = unheard_s
            return
        self.silent_s = 0.0
        self.busy_s = 0.0 if self._has_moved else self.busy_s + unheard_s
        self._has_beaten = self._has_moved = False


class Watchdog:
    """Hears the workers' beats, and tells of a worker that was silent, or busy with one thing, for too long.

    Time in which this process didn't run either (Ctrl-Z on the whole group, a machine that slept) isn't held against
    them: what lies between two looks counts for two intervals at most.

    Args:
        pipes: reading ends of the workers' pipes, by their names.
        silent_limit_s: how long a worker may be silent.
        busy_limit_s: how long the loop of a worker may be busy with one thing, which is a step of the engine most
            often.
    """

    def __init__(self, pipes: Mapping[str, Connection], silent_limit_s: float, busy_limit_s: float) -> None:
        self._workers = {name: _Watched(pipe) for name, pipe in pipes.items()}
        self._limits_s = {Fault.SILENT: silent_limit_s, Fault.STUCK: busy_limit_s}
        self._interval_s = interval_s(min(silent_limit_s, busy_limit_s))

    def beats(self) -> dict[str, Beat]:
        """The last beat of each worker that has beaten and hasn't ended, by its name."""
        for worker in self._workers.values():
            worker.hear()
        return {
            name: worker.last
            for name, worker in self._workers.items()
            if worker.last is not None and not worker.is_over
        }

    async def run(self, on_fault: Callable[[str, Fault, float], None]) -> None:
        """Watch until cancelled.

        Args:
            on_fault: told the name of a worker, what is wrong, and the limit in seconds that it has passed; once each.
        """
        before = time.monotonic()
        while True:
            await asyncio.sleep(self._interval_s)
            now = time.monotonic()
            self.look(now - before, on_fault)
            before = now

    def look(self, elapsed_s: float, on_fault: Callable[[str, Fault, float], None]) -> None:
        """Take the beats that have come in the `elapsed_s` seconds since the last look."""
        for name, worker in self._workers.items():
            worker.hear()
            if worker.is_over:
                continue
            worker.pass_time(min(elapsed_s, 2 * self._interval_s))
            times = {Fault.SILENT: worker.silent_s, Fault.STUCK: worker.busy_s}
            for fault, limit_s in self._limits_s.items():
                if times[fault] > limit_s and not worker.is_over:
                    worker.is_over = True
                    on_fault(name, fault, limit_s)
