"""The engine on a GPU: the reference's tokens, the same with each of its means on or off, and nothing that waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import SamplingParams
from learnsgl.engine.cuda_engine import CudaEngine
from learnsgl.engine.engine import create_engine
from learnsgl.errors import EngineError
from tests.engine.driver import GREEDY, StepBuilder, generate, int32, run_step
from tests.engine.reference import SHAPES, assert_same_greedy, rounding_margin
from tests.gpu.conftest import MakeModel

FLOAT32_MARGIN = 2e-3
"""How close the two best logits may lie where ours differ from float32's; logits here are about 10 in size."""

PROMPTS = [[9, 10, 11, 12], [20] * 37, [30, 31, 32] * 30, [7]]


@contextmanager
def running(folder: Path, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Iterator[CudaEngine]:
    settings = {"device": "cuda", "dtype": str(dtype).removeprefix("torch."), "num_pages": 2048, **changes}
    scheduler = SchedulerConfig(max_running_requests=8, max_prefill_length=128)
    engine = create_engine(folder, "small", EngineConfig(**settings), scheduler)
    assert isinstance(engine, CudaEngine)
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_greedy_tokens_are_the_references(shape: str, dtype: torch.dtype, random_model: MakeModel) -> None:
    folder, model = random_model(shape, torch.float32)
    with running(folder, dtype, page_size=4, num_pages=512) as engine:
        outputs = generate(engine, PROMPTS, 12, chunk=20)
    rounded = random_model(shape, dtype)[1]
    compared = []
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        margin = max(FLOAT32_MARGIN, rounding_margin(model, rounded, [*prompt, *output]))
        compared.append(assert_same_greedy(model, prompt, output, margin=margin))
    assert sum(compared) >= 12


@pytest.mark.parametrize(
    "changes",
    [{"cuda_graph_max_bs": 0}, {"cuda_graph_max_bs": 3}, {"attention_backend": "torch"},
     {"attention_backend": "torch,triton"}, {"page_size": 16, "num_pages": 256}],
    ids=str,
)  # fmt: skip
def test_each_of_its_means_changes_nothing(changes: dict[str, Any], random_model: MakeModel) -> None:
    folder, model = random_model("gqa", torch.float32)
    with running(folder, torch.float32) as engine:
        expected = generate(engine, PROMPTS, 16)
        assert engine.info.graphs
    for overlap in (True, False):
        with running(folder, torch.float32, **changes) as engine:
            outputs = generate(engine, PROMPTS, 16, overlap=overlap)
        for prompt, output, other in zip(PROMPTS, outputs, expected, strict=True):
            if output != other:
                assert_same_greedy(model, prompt, output, margin=FLOAT32_MARGIN)


def test_neither_submitting_nor_sampling_waits_for_the_device(random_model: MakeModel) -> None:
    params = [
        GREEDY, SamplingParams(temperature=0.9, seed=1), SamplingParams(top_p=0.9, top_k=30, seed=2),
        SamplingParams(min_p=0.1, frequency_penalty=0.5, repetition_penalty=1.2, logit_bias={5: 2.0}, min_tokens=9),
        SamplingParams(temperature=0.0, logprobs=3),
    ]  # fmt: skip
    with running(random_model("qwen3_tied", torch.float32)[0]) as engine:
        builder = StepBuilder(engine.info)
        for row, sampling in enumerate(params):
            builder.admit(row, [row + 3] * (5 + 9 * row), sampling)
        steps = [builder.build([(row, 5 + 9 * row) for row in range(5)])]
        steps += [builder.build([(row, 1) for row in range(num)]) for num in (5, 5, 4, 3, 1)]
        builder.admit(6, [50] * 60)
        steps += [builder.build([(6, 40), (0, 1)], wants=[False, True]), builder.build([(6, 20), (0, 1)])]
        in_flight, tokens = [], []
        try:
            for step in steps:
                torch.cuda.set_sync_debug_mode("error")
                ticket = engine.submit(step)
                engine.sample(ticket, None)
                torch.cuda.set_sync_debug_mode("default")
                in_flight.append(ticket)
                if len(in_flight) > 1:
                    tokens.append(engine.collect(in_flight.pop(0)).tokens)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        tokens += [engine.collect(ticket).tokens for ticket in in_flight]
    assert [len(of_step) for of_step in tokens] == [5, 5, 5, 4, 3, 1, 1, 2]


def test_a_seed_gives_the_same_tokens_in_any_company(random_model: MakeModel) -> None:
    folder = random_model("gqa", torch.float32)[0]
    seeded = SamplingParams(temperature=0.8, seed=11, top_p=0.95)
    with running(folder, torch.float32) as engine:
        together = generate(engine, PROMPTS[:3], 12, [seeded, GREEDY, SamplingParams(temperature=1.5, top_k=9)])
    with running(folder, torch.float32) as engine:
        assert generate(engine, PROMPTS[:1], 12, [seeded], uids=[77])[0] == together[0]


def test_broken_logits_are_told(random_model: MakeModel) -> None:
    with running(random_model("gqa", torch.float32)[0]) as engine:
        builder = StepBuilder(engine.info)
        builder.admit(0, [5, 6, 7])
        run_step(engine, builder.build([(0, 3)]))
        assert engine._runner is not None
        engine._runner.model.norm.weight.fill_(float("nan"))  # type: ignore[attr-defined]
        torch.cuda.synchronize()  # it ran on another stream than the engine's
        with pytest.raises(EngineError, match="hold a NaN or allow no token"):
            run_step(engine, builder.build([(0, 1)]))


def test_log_probabilities_come_with_their_tokens(random_model: MakeModel) -> None:
    with running(random_model("gqa", torch.float32)[0], torch.float32) as engine:
        builder = StepBuilder(engine.info)
        builder.admit(0, [5, 6, 7], SamplingParams(temperature=0.0, logprobs=5))
        for length in (3, 1, 1):
            ticket = engine.submit(builder.build([(0, length)]))
            engine.sample(ticket, None)
            result = engine.collect(ticket)
            assert result.logprobs is not None
            assert int(result.logprobs.top_ids[0, 0]) == int(result.tokens[0])
            assert np.isclose(result.logprobs.logprobs[0], result.logprobs.top_logprobs[0, 0])
            assert (np.diff(result.logprobs.top_logprobs[0]) <= 0).all()
    assert int32(result.tokens).dtype == result.tokens.dtype
