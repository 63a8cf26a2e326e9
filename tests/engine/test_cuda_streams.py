"""The GPU's executor with its own transfers on made-up streams: no operator runs before what it reads was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import SamplingParams
from learnsgl.engine.cuda_engine import CudaEngine
from learnsgl.engine.loading import load_model_runner
from learnsgl.engine.logit_rules import LogitRules
from learnsgl.engine.transfers import CudaTransfers
from learnsgl.scheduler.executor import Masks
from tests.engine.conftest import MakeModel
from tests.engine.driver import GREEDY, StepBuilder, int32
from tests.engine.fake_streams import DoneEvent, Judge, Stream
from tests.engine.test_cuda_engine import FakeDevice
from tests.engine.test_device_clock import World

PARAMS = [
    GREEDY, SamplingParams(temperature=0.9, seed=1, logprobs=2), SamplingParams(top_p=0.9, seed=2),
    SamplingParams(temperature=0.0, frequency_penalty=0.5, repetition_penalty=1.2, logit_bias={5: 2.0}, min_tokens=9),
]  # fmt: skip


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    judge = Judge()
    names = iter(("up", "down"))
    monkeypatch.setattr("torch.cuda.Stream", lambda device: Stream(next(names)))
    monkeypatch.setattr("torch.cuda.stream", judge.stream)
    monkeypatch.setattr("torch.cuda.Event", lambda: DoneEvent(judge))
    monkeypatch.setattr("torch.Tensor.record_stream", lambda tensor, stream: judge.record(tensor, stream))
    monkeypatch.setattr("learnsgl.engine.transfers._pinned", lambda num_bytes: judge.pin(pinned(num_bytes)))
    yield judge
    assert judge.faults == []


def pinned(num_bytes: int) -> torch.Tensor:
    """The host writes zeros into it, and no stream does."""
    with _disable_current_modes():
        return torch.zeros(num_bytes, dtype=torch.uint8)


class Device(FakeDevice):
    """Its downloads are real ones."""

    def __init__(self, transfers: CudaTransfers) -> None:
        super().__init__(World())
        self.transfers = transfers

    def downloaded(self) -> DoneEvent:  # type: ignore[override]
        return self.transfers.downloaded()  # type: ignore[return-value]


def engine_on(judge: Judge, folder: Path) -> CudaEngine:
    config = EngineConfig(device="cpu", num_threads=1, num_pages=256)
    loaded = load_model_runner(folder, "small", config, SchedulerConfig(max_running_requests=8))
    transfers = CudaTransfers(torch.device("cpu"), judge.current)  # type: ignore[arg-type]
    runner = loaded.runner
    runner.transfers = runner.tables._transfers = transfers
    rules: LogitRules = runner.tables._rules
    rules._upload = transfers.upload
    return CudaEngine(runner, loaded.info, Device(transfers))


def test_a_step_waits_for_all_that_it_reads(
    judge: Judge, small_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learnsgl.engine.device.can_pack", lambda *_: False)  # layers are plain on a GPU
    engine = engine_on(judge, small_model("gqa")[0])
    builder = StepBuilder(engine.info)
    for row, sampling in enumerate(PARAMS):
        builder.admit(row, [row + 3] * (5 + row), sampling)
    masks = Masks(int32([0]), b"\xff" * -(-engine.info.vocab_size // 8))
    in_flight = []
    with judge:
        for number in range(6):
            runs = [(row, 1 if number else 5 + row) for row in range(4)]
            ticket = engine.submit(builder.build(runs))
            engine.sample(ticket, masks if number % 2 else None)
            in_flight.append(ticket)
            if len(in_flight) > 1:
                engine.collect(in_flight.pop(0))
        engine.collect(in_flight.pop())
    engine.close()


def test_the_host_has_what_it_waited_for_and_not_before(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = judge.pin(pinned(12))
    monkeypatch.setattr("learnsgl.engine.transfers._pinned", lambda num_bytes: memory)
    transfers = CudaTransfers(torch.device("cpu"), judge.current)  # type: ignore[arg-type]
    with judge:
        array = transfers.download(torch.arange(3, dtype=torch.int32))
        done = transfers.downloaded()
        with pytest.raises(AssertionError, match=r"the host reads what \{'down'\} may still write"):
            judge.assert_arrived(memory)
        done.synchronize()
        judge.assert_arrived(memory)
    assert array.tolist() == [0, 1, 2]


def test_the_judge_finds_races(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge()
    other = Stream("other")
    with judge:
        tensor = torch.zeros(3)
        with judge.stream(other):
            tensor.add(1)
        assert [fault[:21] for fault in judge.faults] == ["aten.add.Tensor on ot"]
        judge.faults.clear()
        other.wait_stream(judge.current)
        with judge.stream(other):
            tensor.add(1)
        assert judge.faults == []
        tensor.zero_()
        assert "zero_.default on engine doesn't wait for {'other'}" in judge.faults.pop()
        del tensor
        assert judge.faults == ["memory of engine was freed while {'other'} may use it; nothing is recorded"]
