"""The one clock of a recording: `time.monotonic_ns`, which every process of a host shares.

Recorders stamp events with it; each file of a trace also holds an anchor, so that readers can show wall-clock time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, NamedTuple


class ClockAnchor(NamedTuple):
    """The two clocks of a host, read at the same moment.

    Attributes:
        monotonic_ns: `time.monotonic_ns`, on which all events lie.
        time_ns: nanoseconds since 1970-01-01 UTC, which can jump, so nothing is ordered by it.
    """

    monotonic_ns: int
    time_ns: int

    def wall(self, ns: int) -> datetime:
        """The UTC date and time of a moment on the monotonic clock, as true as the wall clock was at the anchor."""
        return datetime.fromtimestamp((self.time_ns + ns - self.monotonic_ns) / 1e9, UTC)

    def to_json(self) -> dict[str, int]:
        """The anchor as the manifest and the file headers hold it."""
        return self._asdict()


def read_anchor() -> ClockAnchor:
    """Read both clocks together: of a few tries the one in which the least time passed between the reads."""

    def attempt() -> tuple[int, ClockAnchor]:
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        return after - before, ClockAnchor((before + after) // 2, wall)

    return min(attempt() for _ in range(5))[1]


def anchor_from_json(value: Any) -> ClockAnchor | None:
    """The anchor that a manifest or header holds; `None` where it holds none that can be read."""
    if not isinstance(value, dict):
        return None
    monotonic_ns, time_ns = value.get("monotonic_ns"), value.get("time_ns")
    if not isinstance(monotonic_ns, int) or not isinstance(time_ns, int):
        return None
    return ClockAnchor(monotonic_ns, time_ns)
