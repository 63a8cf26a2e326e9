"""The GPU's runner as a whole beside the CPU's: fused operators, Triton attention, its sampler, padded decode steps.

Graphs are replaced by running their work again, and CUDA by the CPU, so that all of it runs under the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learnsgl.attention.registry import Backends
from learnsgl.attention.triton_backend import TritonAttention
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import SamplingParams
from learnsgl.engine.choose_tokens import choose_with_triton
from learnsgl.engine.graph import DecodeGraphs, GraphBuffers, GraphedAttention
from learnsgl.engine.loading import load_model_runner
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.engine.trial import Trial, run_trial
from learnsgl.models.triton_ops import TritonOps
from tests.engine.driver import GREEDY, StepBuilder
from tests.engine.reference import SHAPES, make_model
from tests.kernels.conftest import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="tests/gpu has the same for a GPU")

SCHEDULER = SchedulerConfig(max_running_requests=4, max_prefill_length=16)


class Again:
    """Graphs that run their work again (`GraphRecorder`)."""

    def record(self, work: Callable[[], None]) -> Again:
        work()
        self_ = Again()
        self_.replay = work  # type: ignore[attr-defined]
        return self_

    def used_bytes(self) -> int:
        return 0


def load(folder: Path, *, dtype: str = "float32") -> tuple[ModelRunner, StepBuilder]:
    config = EngineConfig(device="cpu", dtype=dtype, num_threads=1, num_pages=64, page_size=4, max_model_len=64)
    loaded = load_model_runner(folder, "small", config, SCHEDULER)
    return loaded.runner, StepBuilder(loaded.info)


def make_gpu_like(runner: ModelRunner, sizes: list[int], dtype: torch.dtype = torch.float32) -> None:
    attention = TritonAttention(
        runner.pool, runner.tables.page_table, num_heads=runner.model.config.num_heads,  # type: ignore[attr-defined]
        max_tokens=64, max_context_len=runner.max_model_len,
    )  # fmt: skip
    assert isinstance(attention, GraphedAttention)
    runner.attention = Backends(attention, attention)
    runner.choose_tokens = choose_with_triton
    runner.tables._samples_on_device = True
    runner.model.use_ops(TritonOps(torch.device("cpu")))
    if runner.model.config.tie_word_embeddings:  # type: ignore[attr-defined]
        runner.model.lm_head = _plain(runner)  # type: ignore[attr-defined]
    buffers = GraphBuffers.make(sizes[-1], vocab_size=203, dtype=dtype, device=torch.device("cpu"))
    runner.graphs = DecodeGraphs(runner.model, attention, buffers)
    runner.graphs.capture(sizes, Again())


def _plain(runner: ModelRunner) -> object:
    """On a CPU the output layer may have been packed; on a GPU it stays as it is."""
    from learnsgl.models.layers import Linear

    return Linear(runner.model.embed_tokens)  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", ["mqa_tied", "qwen3_tied"])
def test_a_padded_step_gives_the_tokens_of_the_cpu(shape: str, tmp_path: Path) -> None:
    make_model(tmp_path, **{**SHAPES[shape], "num_hidden_layers": 2})
    outputs = []
    for is_gpu_like in (False, True):
        runner, builder = load(tmp_path)
        if is_gpu_like:
            make_gpu_like(runner, [1, 2, 4])
        for row, length in enumerate((5, 9, 3)):
            builder.admit(row, [row + 7] * length, GREEDY)
        steps = [builder.build([(0, 5), (1, 6)], wants=[True, False]), builder.build([(0, 1), (1, 3), (2, 3)])]
        steps += [builder.build([(0, 1), (1, 1), (2, 1)]), builder.build([(2, 1)]), builder.build([(0, 1), (2, 1)])]
        tokens, sizes = [], []
        with torch.inference_mode():
            for step in steps:
                sampled = runner.sample_batch(step, runner.forward_batch(step), None)
                assert sampled.failed is None or not sampled.failed.any()
                tokens.append(sampled.tokens.tolist())
                sizes.append(runner.graph_size)
        outputs.append(tokens)
    assert outputs[1] == outputs[0]
    assert sizes == [None, None, 4, 1, 2]


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_the_trial_runs_on_it_and_broken_logits_are_told(tmp_path: Path) -> None:
    make_model(tmp_path, **{**SHAPES["mqa_tied"], "num_hidden_layers": 1})
    runner, builder = load(tmp_path)
    make_gpu_like(runner, [1, 4])
    with torch.inference_mode():
        run_trial(runner, Trial.of(SCHEDULER, max_model_len=16, page_size=4))
        builder.admit(0, [3, 4, 5], SamplingParams(temperature=0.7, top_k=20, seed=1, logprobs=2))
        step = builder.build([(0, 3)])
        sampled = runner.sample_batch(step, runner.forward_batch(step), None)
        assert sampled.logprobs is not None
        runner.model.norm.weight.fill_(float("nan"))  # type: ignore[attr-defined]
        step = builder.build([(0, 1)])
        sampled = runner.sample_batch(step, runner.forward_batch(step), None)
    assert sampled.failed is not None
    assert sampled.failed.tolist() == [True]
