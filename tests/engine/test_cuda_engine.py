"""The GPU's executor on a device that is made up: the model runs on the CPU, the clock and the events are fakes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import SamplingParams
from learnsgl.engine.cuda_engine import CudaEngine
from learnsgl.engine.device_clock import TOO_OLD_NS, DeviceClock
from learnsgl.engine.loading import load_model_runner
from learnsgl.errors import EngineError
from learnsgl.scheduler.executor import Executor, Step
from tests.engine.conftest import MakeModel
from tests.engine.driver import GREEDY, StepBuilder, generate, run_step
from tests.engine.test_device_clock import Event, World
from tests.engine.test_engine import start

PROMPT = [5, 6, 7, 8]


class Done:
    """Results that are late: the host has to wait once."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.world.some_time()


class FakeDevice:
    """Counts events, and whether it was waited for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stream = "the engine's"
        self.clock = DeviceClock(world.make_event, "an idle one", world.now)
        self.num_events = self.waits = self.finished = 0

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def make_event(self) -> Event:
        self.num_events += 1
        return self.world.make_event()

    def downloaded(self) -> Done:
        return Done(self)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    world = World(rate=20e-6)
    monkeypatch.setattr("learnsgl.engine.cuda_engine.time.monotonic_ns", world.now)
    return FakeDevice(world)


def engine_on(device: FakeDevice, folder: Path, **changes: Any) -> CudaEngine:
    settings = {"device": "cpu", "num_threads": 1, "num_pages": 256, **changes}
    loaded = load_model_runner(folder, "small", EngineConfig(**settings), SchedulerConfig(max_running_requests=8))
    return CudaEngine(loaded.runner, loaded.info, device)


@pytest.fixture
def engine(device: FakeDevice, small_model: MakeModel) -> Iterator[CudaEngine]:
    engine = engine_on(device, small_model("gqa")[0])
    yield engine
    engine.close()


def test_tokens_are_those_of_the_cpus_engine(engine: CudaEngine, small_model: MakeModel) -> None:
    prompts = [[9, 10, 11], [12] * 20, [13]]
    params = [GREEDY, SamplingParams(temperature=0.8, seed=4, top_p=0.9), GREEDY]
    executor: Executor = engine
    other = start(small_model("gqa")[0])
    assert generate(executor, prompts, 9, params) == generate(other, prompts, 9, params)
    other.close()


def test_only_collecting_waits_and_events_are_used_again(engine: CudaEngine, device: FakeDevice) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    for place, length in enumerate((4, 1, 1, 1)):
        ticket = engine.submit(builder.build([(0, length)]))
        engine.sample(ticket, None)
        assert device.waits == place
        engine.collect(ticket)
        assert device.waits == place + 1
    assert device.num_events == 4


def test_times_lie_between_launch_and_news_on_every_step(engine: CudaEngine, device: FakeDevice) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    anchors = []
    for length in (4, *[1] * 12):
        before_ns = device.world.now()
        ticket = engine.submit(builder.build([(0, length)]))
        engine.sample(ticket, None)
        device.world.wait(700_000_000)
        result = engine.collect(ticket)
        anchors += result.anchors
        assert result.launch_ns is not None
        assert before_ns <= result.launch_ns <= result.forward_start_ns <= result.forward_end_ns
        assert result.forward_end_ns <= result.sample_start_ns <= result.sample_end_ns <= device.world.now()
        true_ns = [event.true_ns for event in ticket.events]  # type: ignore[attr-defined]
        times = [result.forward_start_ns, result.forward_end_ns, result.sample_start_ns, result.sample_end_ns]
        errors = [abs(ns - true) for ns, true in zip(times, true_ns, strict=True)]
        assert max(errors) <= result.uncertainty_ns
    between = np.diff([anchor.host_ns for anchor in anchors])
    assert len(between) >= 4
    assert between.max() < 4_000_000_000


def test_after_a_pause_the_clocks_are_compared_before_the_launch(engine: CudaEngine, device: FakeDevice) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    run_step(engine, builder.build([(0, 4)]))
    device.world.wait(10 * TOO_OLD_NS)
    ticket = engine.submit(builder.build([(0, 1)]))
    assert device.world.now() - ticket.anchor.host_ns < TOO_OLD_NS
    engine.sample(ticket, None)
    engine.collect(ticket)


def test_order_is_enforced(engine: CudaEngine) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    step = builder.build([(0, 4)])
    with pytest.raises(EngineError, match="step 3 was submitted after step 0"):
        engine.submit(Step(3, *[getattr(step, name) for name in list(Step.__slots__)[1:]]))
    ticket = engine.submit(step)
    with pytest.raises(EngineError, match="step 1 was collected before its sampling was queued"):
        engine.collect(ticket)
    with pytest.raises(EngineError, match="step 2 was submitted before the sampling of step 1 was queued"):
        engine.submit(builder.build([(0, 1)]))
    engine.sample(ticket, None)
    with pytest.raises(EngineError, match="sampling of step 1 was queued already"):
        engine.sample(ticket, None)
    engine.collect(ticket)
    with pytest.raises(EngineError, match="step 1 was collected after step 1"):
        engine.collect(ticket)
    with pytest.raises(EngineError, match="isn't a ticket of this engine"):
        engine.collect(object())  # type: ignore[arg-type]


def test_a_row_without_a_possible_token_is_told_when_the_host_knows(engine: CudaEngine) -> None:
    runner = engine._runner
    assert runner is not None
    plain = runner.choose_tokens

    def failing(*args: Any) -> Any:
        return plain(*args)._replace(failed=torch.tensor([False, True]))

    runner.choose_tokens = failing
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    builder.admit(1, PROMPT)
    ticket = engine.submit(builder.build([(0, 4), (1, 4)]))
    engine.sample(ticket, None)
    with pytest.raises(EngineError, match="step 1: the logits of row 1 of 2 hold a NaN"):
        engine.collect(ticket)
    with pytest.raises(EngineError, match="has failed and can't go on"):
        engine.submit(builder.build([(0, 1)]))


def test_a_fault_while_launching_is_named_and_stays(engine: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = engine._runner
    assert runner is not None

    def broken(*_: object) -> None:
        raise ArithmeticError("the device is on fire")

    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    monkeypatch.setattr(runner.model, "forward", broken)
    with pytest.raises(EngineError, match=r"step 1 failed on the device: ArithmeticError: .* on fire") as caught:
        engine.submit(builder.build([(0, 4)]))
    assert isinstance(caught.value.__cause__, ArithmeticError)
    builder.number = 0
    with pytest.raises(EngineError, match="has failed and can't go on"):
        engine.submit(builder.build([(0, 1)]))


def test_closing_after_the_device_failed_is_safe(engine: CudaEngine, device: FakeDevice) -> None:
    def fails() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    device.finish = fails  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"closing the engine failed on the device: RuntimeError: CUDA error"):
        engine.close()
    engine.close()


def test_a_device_that_failed_is_not_asked_twice(
    engine: CudaEngine, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    monkeypatch.setattr(device, "downloaded", fails)
    ticket = engine.submit(builder.build([(0, 4)]))
    with pytest.raises(EngineError, match="the sampling of step 1 failed on the device"):
        engine.sample(ticket, None)
    device.finish = fails  # type: ignore[method-assign]
    engine.close()  # nothing more to say


def test_closing_twice_is_safe(engine: CudaEngine, device: FakeDevice) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    ticket = engine.submit(builder.build([(0, 4)]))
    engine.sample(ticket, None)
    engine.close()
    engine.close()
    assert device.finished == 1
    assert len(engine.collect(ticket).tokens) == 1  # what was queued is finished
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(builder.build([(0, 1)]))
