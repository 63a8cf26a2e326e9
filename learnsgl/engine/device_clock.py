"""Device times on the host's clock: anchors that were seen on both, and a straight line from the newest of them.

`CudaEngine` makes one. CUDA events tell only how far apart they are; an anchor ties one of them to a moment of
`time.monotonic_ns`. Nothing here waits for the engine's own stream, and how far off a time may be is always said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from learnsgl.scheduler.executor import ClockAnchor

TRIES = 8
"""Waits an anchor is the tightest of. One takes about 10 µs, of which the first few include waking something up."""

OLD_NS = 1_000_000_000
"""An anchor of this age is replaced when the host waits for the device anyway ..."""

TOO_OLD_NS = 3_000_000_000
"""... and one of this age in any case, before the next step: elapsed times are float32 milliseconds, whose error grows
with their length (0.2 µs at 4 s), and so does that of the rate."""

MAX_RATE = 1e-4
"""How far the clocks' rates may differ before they have been compared: quartz oscillators keep to 100 ppm."""

RATE_CHANGE = 1e-6
"""How far the rate may move between two anchors, as a chip gets warmer."""

EVENT_RESOLUTION_NS = 500
"""Of CUDA events, by NVIDIA's documentation of `cudaEventElapsedTime`."""


class TimingEvent(Protocol):
    """A moment on the device, once it has happened; `torch.cuda.Event(enable_timing=True)` is one."""

    def record(self, stream: Any) -> None:
        """Have it happen when the stream has done what was queued so far."""
        ...

    def synchronize(self) -> None:
        """Wait until it has happened."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to another; both have happened."""
        ...


@dataclass(frozen=True, slots=True)
class Anchor:
    """An event whose moment on the host's clock is known, and how fast the device's clock goes from there.

    Attributes:
        event: on the device.
        host_ns, uncertainty_ns: when it was on the host's clock.
        rate: host time a unit of the device's, less 1.
        rate_uncertainty: how far off the rate may be.
    """

    event: TimingEvent
    host_ns: int
    uncertainty_ns: int
    rate: float
    rate_uncertainty: float

    def to_host(self, elapsed_ms: float) -> tuple[int, int]:
        """When something was, by the milliseconds that it was after the anchor's event (before: negative).

        Returns:
            Nanoseconds on the host's clock, and how far off they may be.
        """
        elapsed_ns = elapsed_ms * 1e6
        rounding_ns = float(np.spacing(np.float32(abs(elapsed_ms)))) / 2 * 1e6
        drift_ns = abs(elapsed_ns) * self.rate_uncertainty
        uncertainty_ns = self.uncertainty_ns + math.ceil(rounding_ns + drift_ns) + EVENT_RESOLUTION_NS
        return self.host_ns + round(elapsed_ns * (1.0 + self.rate)), uncertainty_ns

    def recorded(self) -> ClockAnchor:
        """For the trace."""
        return ClockAnchor(
            self.host_ns, self.uncertainty_ns, round(self.rate * 1e9), math.ceil(self.rate_uncertainty * 1e9)
        )


class DeviceClock:
    """Keeps an anchor that is young enough, and the rate between the last two."""

    def __init__(
        self, make_event: Callable[[], TimingEvent], stream: Any, now: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Make the first anchor.

        Args:
            make_event: a new event with timing.
            stream: one on which nothing else runs, so that its events happen at once.
            now: the host's clock, nanoseconds.
        """
        self._make_event = make_event
        self._stream = stream
        self._now = now
        self._unrecorded: list[ClockAnchor] = []
        self.anchor = self._keep(self._look(), rate=0.0, rate_uncertainty=MAX_RATE)

    def renew(self, older_than_ns: int = 0) -> None:
        """Make a new anchor if the last one is older than this."""
        if self._now() - self.anchor.host_ns <= older_than_ns:
            return
        last, (event, host_ns, uncertainty_ns) = self.anchor, self._look()
        elapsed_ms = last.event.elapsed_time(event)
        elapsed_ns = elapsed_ms * 1e6
        if elapsed_ns <= 0:
            return  # both within the resolution of the device's clock: nothing is learnt
        rate = (host_ns - last.host_ns) / elapsed_ns - 1.0
        rounding_ns = float(np.spacing(np.float32(elapsed_ms))) * 1e6
        error_ns = last.uncertainty_ns + uncertainty_ns + rounding_ns + 2 * EVENT_RESOLUTION_NS
        rate_uncertainty = error_ns / elapsed_ns
        known_uncertainty = min(last.rate_uncertainty + RATE_CHANGE, MAX_RATE)
        if rate_uncertainty > known_uncertainty:  # too soon after the last anchor to say more than is known already
            rate, rate_uncertainty = last.rate, known_uncertainty
        self.anchor = self._keep((event, host_ns, uncertainty_ns), rate=rate, rate_uncertainty=rate_uncertainty)

    def take_unrecorded(self) -> tuple[ClockAnchor, ...]:
        """Anchors that were made since the last call."""
        taken, self._unrecorded = tuple(self._unrecorded), []
        return taken

    def _look(self) -> tuple[TimingEvent, int, int]:
        """The tightest of some events that were queued and waited for: event, host time, uncertainty."""
        looks = []
        for _ in range(TRIES):
            event = self._make_event()
            before_ns = self._now()
            event.record(self._stream)
            event.synchronize()
            looks.append((self._now() - before_ns, before_ns, event))
        took_ns, before_ns, event = min(looks, key=lambda look: look[:2])
        return event, before_ns + took_ns // 2, -(-took_ns // 2)

    def _keep(self, look: tuple[TimingEvent, int, int], *, rate: float, rate_uncertainty: float) -> Anchor:
        anchor = Anchor(*look, rate, rate_uncertainty)
        self._unrecorded.append(anchor.recorded())
        return anchor


def within(times_ns: list[int], *, uncertainty_ns: int, launch_ns: int, observed_ns: int) -> list[int]:
    """Times that are known to lie between two moments, moved there as far as their uncertainty goes.

    A launch comes before what it launches, and news after what it is of, so a mapped time outside is off by at least
    that much. What is further outside than the uncertainty allows stays, for `trace verify` to find.

    Args:
        times_ns: ascending.
        uncertainty_ns: of the times.
        launch_ns: the host's clock before the first of them.
        observed_ns: the host's clock after the last of them.
    """
    low = [max(ns, launch_ns) if ns >= launch_ns - uncertainty_ns else ns for ns in times_ns]
    return [min(ns, observed_ns) if ns <= observed_ns + uncertainty_ns else ns for ns in low]
