"""Device times on the host's clock, on a made-up device whose clock starts elsewhere and goes at another rate."""

from __future__ import annotations

import random

import numpy as np
import pytest

from learnsgl.engine.device_clock import MAX_RATE, TRIES, DeviceClock, within


class World:
    """One true time, seen by a host and by a device whose clock is `rate` too slow; calls take up to `slowest_ns`."""

    def __init__(self, *, rate: float = 0.0, slowest_ns: int = 20_000, seed: int = 0) -> None:
        self.true_ns = 5_000_000_000_000
        self.rate = rate
        self.slowest_ns = slowest_ns
        self.random = random.Random(seed)

    def now(self) -> int:
        return self.true_ns

    def wait(self, ns: int) -> None:
        self.true_ns += ns

    def some_time(self) -> None:
        self.true_ns += self.random.randint(500, self.slowest_ns)

    def make_event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, world: World) -> None:
        self.world = world
        self.device_ns: float | None = None
        self.true_ns = 0

    def record(self, stream: object = None) -> None:
        self.world.some_time()
        self.true_ns = self.world.true_ns
        self.device_ns = 777 + self.true_ns / (1.0 + self.world.rate)
        self.world.some_time()

    def synchronize(self) -> None:
        self.world.some_time()

    def elapsed_time(self, end_event: Event) -> float:
        assert self.device_ns is not None
        assert end_event.device_ns is not None
        return float(np.float32((end_event.device_ns - self.device_ns) / 1e6))


def clock_of(world: World) -> DeviceClock:
    return DeviceClock(world.make_event, "an idle stream", world.now)


def test_the_tightest_of_many_looks_counts() -> None:
    world = World()
    anchor = clock_of(world).anchor
    assert abs(anchor.host_ns - anchor.event.true_ns) <= anchor.uncertainty_ns  # type: ignore[attr-defined]
    world = World(slowest_ns=501)
    assert clock_of(world).anchor.uncertainty_ns <= 3 * 501 / 2 + 1
    assert TRIES >= 2


@pytest.mark.parametrize("rate", [0.0, 30e-6, -80e-6])
@pytest.mark.parametrize("seed", range(5))
def test_mapped_times_are_as_right_as_they_say(rate: float, seed: int) -> None:
    world = World(rate=rate, seed=seed)
    clock = clock_of(world)
    for waited_ns in (3_000_000, 900_000_000, 2_000_000_000, 3_900_000_000, 100_000_000, 3_900_000_000):
        world.wait(waited_ns)
        event = world.make_event()
        event.record()
        host_ns, uncertainty_ns = clock.anchor.to_host(clock.anchor.event.elapsed_time(event))
        assert abs(host_ns - event.true_ns) <= uncertainty_ns
        clock.renew()
    assert uncertainty_ns < 100_000  # at the end the rate is known, and 4 s cost little


def test_an_event_before_the_anchor_is_mapped_too() -> None:
    world = World(rate=50e-6)
    clock = clock_of(world)
    event = world.make_event()
    event.record()
    world.wait(1_000_000_000)
    clock.renew()
    host_ns, uncertainty_ns = clock.anchor.to_host(clock.anchor.event.elapsed_time(event))
    assert abs(host_ns - event.true_ns) <= uncertainty_ns


def test_the_rate_is_measured_between_anchors() -> None:
    world = World(rate=40e-6)
    clock = clock_of(world)
    assert (clock.anchor.rate, clock.anchor.rate_uncertainty) == (0.0, MAX_RATE)
    clock.renew()  # at once: two looks so close say nothing of the rate
    assert clock.anchor.rate_uncertainty == MAX_RATE
    for _ in range(3):
        world.wait(2_000_000_000)
        clock.renew()
    assert abs(clock.anchor.rate - 40e-6) <= clock.anchor.rate_uncertainty < 30e-6


def test_an_anchor_is_renewed_when_it_is_old() -> None:
    world = World()
    clock = clock_of(world)
    first = clock.anchor
    clock.renew(older_than_ns=1_000_000_000)
    assert clock.anchor is first
    world.wait(1_000_000_001)
    clock.renew(older_than_ns=1_000_000_000)
    assert clock.anchor is not first
    recorded = clock.take_unrecorded()
    assert [anchor.host_ns for anchor in recorded] == [first.host_ns, clock.anchor.host_ns]
    assert clock.take_unrecorded() == ()


def test_known_bounds_correct_times_as_far_as_these_are_uncertain() -> None:
    bounds = {"uncertainty_ns": 10, "launch_ns": 100, "observed_ns": 200}
    assert within([95, 120, 150, 205], **bounds) == [100, 120, 150, 200]
    assert within([91, 93, 99, 101], **bounds) == [100, 100, 100, 101]
    assert within([80, 120, 150, 230], **bounds) == [80, 120, 150, 230]  # too far out to be explained
