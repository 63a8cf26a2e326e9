"""Finding a worker that no longer runs although it isn't dead: one that was stopped, or that the system holds.

A thread of each worker beats: it writes into a pipe to the parent, again and again. `serving.py` runs the `Watchdog`,
which misses the beats. A long step or a long prompt is no silence, since the thread beats beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

BEAT = b"."
BEATS_WITHIN_LIMIT = 4
LONGEST_INTERVAL_S = 1.0


def interval_s(limit_s: float) -> float:
    """Seconds between two beats of a worker that may be silent for `limit_s`."""
    return min(LONGEST_INTERVAL_S, limit_s / BEATS_WITHIN_LIMIT)


def start_beating(pulse: Connection, limit_s: float) -> None:
    """Beat on a thread from now on, until this process or its parent has ended.

    Args:
        pulse: writing end of the pipe to the parent.
        limit_s: how long the parent lets this process be silent.
    """
    threading.Thread(target=_beat, args=(pulse, interval_s(limit_s)), name="pulse", daemon=True).start()


def _beat(pulse: Connection, every_s: float) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, and another thread ends this process
        while True:
            pulse.send_bytes(BEAT)
            time.sleep(every_s)


class Watchdog:
    """Tells of workers that were silent for too long.

    Time in which this process didn't run either (Ctrl-Z on the whole group, a machine that slept) isn't held against
    them: what lies between two looks counts for two intervals at most.

    Args:
        pulses: reading ends of the workers' pipes, by their names.
        limit_s: how long a worker may be silent.
        on_silent: told the name of one that was silent for longer; once each.
    """

    def __init__(self, pulses: Mapping[str, Connection], limit_s: float, on_silent: Callable[[str], None]) -> None:
        self._pulses = dict(pulses)
        self._silent_s = dict.fromkeys(pulses, 0.0)
        self._limit_s = limit_s
        self._interval_s = interval_s(limit_s)
        self._on_silent = on_silent

    async def run(self) -> None:
        """Watch until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(self._interval_s)
            now = time.monotonic()
            self.look(now - before)
            before = now

    def look(self, elapsed_s: float) -> None:
        """Take the beats that have come in the `elapsed_s` seconds since the last look."""
        for name, pulse in list(self._pulses.items()):
            if _has_beaten(pulse):
                self._silent_s[name] = 0.0
                continue
            self._silent_s[name] += min(elapsed_s, 2 * self._interval_s)
            if self._silent_s[name] > self._limit_s:
                del self._pulses[name]
                self._on_silent(name)


def _has_beaten(pulse: Connection) -> bool:
    """Whether there are beats in a pipe, which are taken. The end of a dead worker's isn't silence."""
    try:
        if not pulse.poll():
            return False
        while pulse.poll():
            pulse.recv_bytes()
    except (EOFError, OSError):  # its death is told by its sentinel
        pass
    return True
