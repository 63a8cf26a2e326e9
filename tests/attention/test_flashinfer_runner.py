"""A whole runner on the FlashInfer backend, in graphs and without, gives the tokens of the CPU's runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learnsgl.attention.flashinfer_backend import FlashInferAttention
from learnsgl.attention.registry import Backends
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.graph import DecodeGraphs, GraphBuffers
from learnsgl.engine.loading import load_model_runner
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.models.ops import TorchOps
from learnsgl.models.triton_ops import TritonOps
from tests.engine.driver import GREEDY, StepBuilder
from tests.engine.reference import SHAPES, make_model

SCHEDULER = SchedulerConfig(max_running_requests=4, max_prefill_length=32)


class FusedOps(TorchOps):
    """Rotation happens in the backend, as on a GPU: the positions of a graph are the backend's own."""

    attend = TritonOps.attend


class Again:
    """Graphs that run their work again (`GraphRecorder`)."""

    def record(self, work: Callable[[], None]) -> Again:
        work()
        graph = Again()
        graph.replay = work  # type: ignore[attr-defined]
        return graph

    def used_bytes(self) -> int:
        return 0


def load(folder: Path) -> tuple[ModelRunner, StepBuilder]:
    config = EngineConfig(device="cpu", num_threads=1, num_pages=64, page_size=4, max_model_len=64)
    loaded = load_model_runner(folder, "small", config, SCHEDULER)
    return loaded.runner, StepBuilder(loaded.info)


def use_flashinfer(runner: ModelRunner, sizes: list[int]) -> None:
    num_heads = runner.model.config.num_heads  # type: ignore[attr-defined]
    attention = FlashInferAttention(runner.pool, runner.tables.page_table, num_heads=num_heads, max_tokens=64)
    runner.attention = Backends(attention, attention)
    runner.model.use_ops(FusedOps())
    if sizes:
        buffers = GraphBuffers.make(sizes[-1], vocab_size=203, dtype=torch.float32, device=torch.device("cpu"))
        runner.graphs = DecodeGraphs(runner.model, attention, buffers)
        # a CPU's output layer may be packed, and doesn't write to a given buffer then
        runner.model.lm_head = _plain(runner)  # type: ignore[attr-defined]
        runner.graphs.capture(sizes, Again())


def _plain(runner: ModelRunner) -> object:
    from learnsgl.models.layers import Linear

    return Linear(runner.model.embed_tokens)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("sizes", [[], [1, 2, 4]], ids=["eager", "graphs"])
def test_the_tokens_are_those_of_the_cpu(sizes: list[int], tmp_path: Path) -> None:
    make_model(tmp_path, **{**SHAPES["qwen3_tied"], "num_hidden_layers": 2})
    outputs = []
    for is_flashinfer in (False, True):
        runner, builder = load(tmp_path)
        if is_flashinfer:
            use_flashinfer(runner, sizes)
        for row, length in enumerate((5, 9, 3)):
            builder.admit(row, [row + 7] * length, GREEDY)
        steps = [builder.build([(0, 5), (1, 6)], wants=[True, False]), builder.build([(1, 3), (2, 3), (0, 1)])]
        steps += [builder.build([(0, 1), (1, 1), (2, 1)]), builder.build([(2, 1)]), builder.build([(0, 1), (2, 1)])]
        with torch.inference_mode():
            tokens = [runner.sample_batch(step, runner.forward_batch(step), None).tokens.tolist() for step in steps]
        outputs.append(tokens)
    assert outputs[1] == outputs[0]
    assert len({token for of_step in outputs[0] for token in of_step}) > 2
