"""Our logits and tokens are those of transformers, however a sequence is cut into steps and batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.engine import Engine, create_engine
from learnsgl.engine.loading import Loaded, load_model_runner
from tests.engine.conftest import MakeModel
from tests.engine.driver import StepBuilder, generate
from tests.engine.reference import SHAPES, assert_same_greedy, make_model, reference_logits

TOLERANCE = {"atol": 2e-4, "rtol": 2e-4}


def config(**changes: Any) -> EngineConfig:
    return EngineConfig(**{"device": "cpu", "num_threads": 1, "num_pages": 640, **changes})


def load(folder: Path, **changes: Any) -> Loaded:
    return load_model_runner(folder, "small", config(**changes), SchedulerConfig(max_running_requests=16))


def start(folder: Path, **changes: Any) -> Engine:
    return create_engine(folder, "small", config(**changes), SchedulerConfig(max_running_requests=16))


def random_prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, length]).integers(3, 203, length).tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("page_size", [1, 4])
@torch.inference_mode()
def test_prefill_chunks_and_decode_give_the_logits_of_transformers(
    small_model: MakeModel, shape: str, page_size: int
) -> None:
    folder, model = small_model(shape)
    loaded = load(folder, page_size=page_size, num_pages=160)
    prompt = random_prompt(90)
    expected = reference_logits(model, prompt)
    for lens in ([90], [30, 37, 20, 1, 1, 1], [1] * 10 + [80], [3, 2, 4, 81]):
        builder = StepBuilder(loaded.info)
        builder.admit(0, prompt)
        end = 0
        for length in lens:
            logits = loaded.runner.forward_batch(builder.build([(0, length)]))
            end += length
            assert logits is not None
            torch.testing.assert_close(logits[0], expected[end - 1], **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("page_size", [1, 16])
@torch.inference_mode()
def test_a_mixed_batch_gives_each_row_its_own_logits(small_model: MakeModel, shape: str, page_size: int) -> None:
    folder, model = small_model(shape)
    loaded = load(folder, page_size=page_size, num_pages=2048 // page_size)
    prompts = [random_prompt(length, seed=1) for length in (450, 9, 9, 120, 33, 2, 1, 61)]
    builder = StepBuilder(loaded.info)
    ends = [0] * len(prompts)

    def step(runs: list[tuple[int, int]], wants: list[bool] | None = None) -> None:
        logits = loaded.runner.forward_batch(builder.build(runs, wants=wants))
        assert logits is not None
        wanted = [row for (row, _), want in zip(runs, wants or [True] * len(runs), strict=True) if want]
        assert len(logits) == len(wanted)
        for row, length in runs:
            ends[row] += length
        for got, row in zip(logits, wanted, strict=True):
            torch.testing.assert_close(got, reference_logits(model, prompts[row][: ends[row]])[-1], **TOLERANCE)

    for row in (0, 1, 2, 3):
        builder.admit(row, prompts[row])
    step([(0, 440), (1, 5), (2, 5), (3, 100)], [False, True, True, False])
    for row in (4, 5, 6, 7):
        builder.admit(row, prompts[row])
    # decode rows of 441, 6 and 6 tokens, a chunk behind a prefix, fresh prompts, one of a single token, out of order
    step([(7, 60), (2, 1), (0, 1), (3, 17), (6, 1), (1, 1), (5, 2), (4, 32)])
    # only decode rows, whose lengths differ so much that they are attended in groups
    step([(4, 1), (0, 1), (1, 1), (2, 1), (3, 1), (7, 1)])


@pytest.mark.parametrize("page_size", [1, 8])
@torch.inference_mode()
def test_rows_share_cached_pages(small_model: MakeModel, page_size: int) -> None:
    folder, model = small_model("gqa")
    loaded = load(folder, page_size=page_size)
    prefix = random_prompt(48)
    builder = StepBuilder(loaded.info)
    builder.admit(0, [*prefix, 7, 8])
    loaded.runner.forward_batch(builder.build([(0, 50)]))
    shared = builder.pages[0][: 48 // page_size]
    builder.release(0, keep_pages=True)
    prompts = {0: [*prefix, 9, 10, 11], 1: [*prefix, 12], 2: [*prefix[:16], 30, 31]}
    for row, prompt in prompts.items():
        pages = shared if row < 2 else shared[: 16 // page_size]
        builder.admit(row, prompt, cached_pages=pages)
    logits = loaded.runner.forward_batch(builder.build([(0, 3), (1, 1), (2, 2)]))
    assert logits is not None
    for got, prompt in zip(logits, prompts.values(), strict=True):
        torch.testing.assert_close(got, reference_logits(model, prompt)[-1], **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("page_size", "chunk"), [(1, 1000), (4, 37)])
def test_greedy_tokens_of_a_batch_are_those_of_transformers(
    small_model: MakeModel, shape: str, page_size: int, chunk: int
) -> None:
    folder, model = small_model(shape)
    prompts = [random_prompt(length, seed=2) for length in (1, 2, 7, 20, 41, 90, 160, 300)]
    engine = start(folder, page_size=page_size, num_pages=1400 // page_size)
    outputs = generate(engine, prompts, 64, chunk=chunk)
    engine.close()
    compared = [
        assert_same_greedy(model, prompt, output, margin=1e-3) for prompt, output in zip(prompts, outputs, strict=True)
    ]
    assert sum(compared) >= 6 * 64  # near ties end a comparison early; they are rare


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", ["gqa", "qwen2", "qwen3_tied"])
def test_halves_stay_within_their_error(small_model: MakeModel, shape: str, dtype: torch.dtype, tmp_path: Path) -> None:
    exact = small_model(shape)[1]
    model = make_model(tmp_path, dtype=dtype, **SHAPES[shape])
    name = str(dtype).removeprefix("torch.")
    loaded = load(tmp_path, dtype=name)
    assert loaded.info.dtype == name
    prompt = random_prompt(60)
    builder = StepBuilder(loaded.info)
    builder.admit(0, prompt)
    with torch.inference_mode():  # one by one, so that all positions give logits
        steps = [loaded.runner.forward_batch(builder.build([(0, 1)])) for _ in prompt]
    ours = torch.cat([logits for logits in steps if logits is not None])
    assert ours.dtype == dtype
    expected = reference_logits(exact, prompt)
    error_of_transformers = float((reference_logits(model, prompt) - expected).norm())
    assert float((ours.float() - expected).norm()) <= 1.5 * error_of_transformers


def test_a_float16_checkpoint_runs_in_float32(small_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(tmp_path, dtype=torch.float16, **SHAPES["gqa"])
    loaded = load(tmp_path)
    builder = StepBuilder(loaded.info)
    builder.admit(0, random_prompt(20))
    with torch.inference_mode():
        ours = loaded.runner.forward_batch(builder.build([(0, 20)]))
    assert ours is not None
    torch.testing.assert_close(ours[0], reference_logits(model.float(), random_prompt(20))[-1], **TOLERANCE)
