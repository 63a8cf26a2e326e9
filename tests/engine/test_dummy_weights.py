"""The engine with random weights: no checkpoint is read, and the same options give the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.engine import create_engine
from learnsgl.errors import OutOfMemoryError
from learnsgl.hub import tiny
from learnsgl.hub.dummy import PRESETS
from tests.engine.driver import generate

PROMPTS = [np.random.default_rng(length).integers(0, 260, length).tolist() for length in (1, 5, 40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    qwen3 = {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps({**tiny.CONFIG, **qwen3}))
    return tmp_path


def outputs(folder: Path, **changes: Any) -> list[list[int]]:
    config = EngineConfig(**{"device": "cpu", "num_threads": 1, "num_pages": 256, "dummy_weights": True, **changes})
    engine = create_engine(folder, "shape", config, SchedulerConfig(max_running_requests=4))
    assert engine.info.dtype.endswith("dummy weights"), "nobody takes it for the model itself"
    try:
        return generate(engine, PROMPTS, 16)
    finally:
        engine.close()


def test_the_same_seed_gives_the_same_model(folder: Path) -> None:
    first = outputs(folder)
    assert outputs(folder) == first
    assert outputs(folder, dummy_weights=False, model="dummy:whatever-the-folder-is") == first
    assert outputs(folder, seed=1) != first
    assert len({token for output in first for token in output}) > 8, "a sane model doesn't repeat one token"


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"quantization": "int8"}])
def test_whatever_else_is_asked_for(folder: Path, changes: dict[str, str]) -> None:
    assert [len(output) for output in outputs(folder, **changes)] == [16, 16, 16]


def test_a_shape_that_does_not_fit_says_by_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learnsgl.engine.device.available_bytes", lambda device: 8 << 30)
    (tmp_path / "config.json").write_text(json.dumps(PRESETS["llama-3.1-8b"].config))
    with pytest.raises(
        OutOfMemoryError,
        match=r"the weights need 29\.9 GiB in float32, and 8\.0 GiB of memory are free: 21\.9 GiB too little",
    ):
        outputs(tmp_path)
