"""The building blocks beside PyTorch's and transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from learnsgl.models import layers
from learnsgl.models.rope import RotaryEmbedding, rotate_
from tests.models.small_config import small_config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [0, 1, 9])
def test_norm_is_that_of_pytorch(dtype: torch.dtype, num_tokens: int) -> None:
    norm = layers.RMSNorm(20, 1e-5, dtype=dtype, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    norm.weight.copy_(torch.randn(20, generator=generator))
    x = torch.randn(num_tokens, 20, generator=generator).to(dtype)
    x[:1] *= 1e-4  # so small that epsilon counts
    torch.testing.assert_close(norm(x), F.rms_norm(x, (20,), norm.weight, 1e-5), atol=1e-6, rtol=1e-5)


def test_silu_and_mul() -> None:
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layers.silu_and_mul(x), x[:, :5] * x[:, :5].sigmoid() * x[:, 5:])


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0},
    "yarn_whole_range": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn_by_hand": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 3.0, "beta_slow": 0.5,
        "truncate": False, "attention_factor": 0.9,
    },
    "yarn_mscale": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_slow": 2.0, "mscale": 0.7,
        "mscale_all_dim": 1.2,
    },
    "yarn_step": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 2.0, "beta_slow": 2.0,
        "truncate": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ROPES)
def test_rotation_is_that_of_transformers(kind: str) -> None:
    rope = {"rope_theta": 10000.0, **ROPES[kind]}
    config = small_config(rope_parameters=rope, head_dim=32)
    ours = RotaryEmbedding(config, num_positions=64, dtype=torch.float32, device=torch.device("cpu"))
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64, num_attention_heads=2, head_dim=32, max_position_embeddings=64, rope_parameters=rope
        )
    )
    positions = torch.tensor([0, 1, 5, 31, 32, 63, 7])
    heads = torch.randn(7, 3, 32, generator=torch.Generator().manual_seed(0))
    cos, sin = theirs(heads, positions[None])
    expected, _ = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], cos, sin)
    rotate_(heads, *ours.look_up(positions))
    torch.testing.assert_close(heads, expected[0].transpose(0, 1), atol=2e-6, rtol=1e-5)
