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
from tests.engine.driver import StepBuilder
from tests.engine.reference import SHAPES, reference_logits

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
    small_llama: MakeModel, shape: str, page_size: int
) -> None:
    folder, model = small_llama(shape)
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
