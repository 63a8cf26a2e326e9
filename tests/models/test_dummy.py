"""Dummy weights: every tensor is filled, the same seed gives the same, and the model that they make is a sane one."""

from __future__ import annotations

import pytest
import torch

from learnsgl.models.dummy import fill_with_dummy_weights
from learnsgl.models.registry import MODEL_CLASSES, CausalLM, model_class
from tests.models.small_config import small_config


def filled(architecture: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> CausalLM:
    config = small_config(
        architectures=[architecture], hidden_size=64, intermediate_size=96, num_attention_heads=4, head_dim=16,
        vocab_size=300, sliding_window=None,
    )  # fmt: skip
    model = model_class(architecture)(config, num_positions=8, dtype=dtype, device=torch.device("cpu"))
    for place in model.checkpoint_tensors().values():
        place.fill_(torch.nan)
    fill_with_dummy_weights(model.checkpoint_tensors(), seed=seed)
    return model


@pytest.mark.parametrize("architecture", MODEL_CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_matrices_keep_the_size_of_what_passes_them(architecture: str, dtype: torch.dtype) -> None:
    for name, place in filled(architecture, dtype=dtype).checkpoint_tensors().items():
        values = place.float()
        assert values.isfinite().all(), name
        if values.dim() > 1:
            assert float(values.std() * values.shape[1] ** 0.5) == pytest.approx(1.0, rel=0.2), name
        else:
            assert float(values.mean()) == pytest.approx(1.0 if "norm" in name else 0.0, abs=0.1), name


def test_the_seed_decides() -> None:
    first, same, other = (filled("Qwen2ForCausalLM", seed).checkpoint_tensors() for seed in (1, 1, 2))
    assert all(torch.equal(place, same[name]) for name, place in first.items())
    assert not any(torch.equal(place, other[name]) for name, place in first.items())
