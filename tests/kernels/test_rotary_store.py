"""The fused rotation and store beside plain torch, beside the models' own rotation, and with padding."""

from __future__ import annotations

import pytest
import torch

from learnsgl.kernels.rotary_store import (
    NO_SLOT,
    QKNorm,
    rotate_and_store,
    rotate_and_store_reference,
    store_kv,
    store_kv_reference,
)
from learnsgl.models.rope import rotate_
from tests.kernels.cases import DTYPES, assert_close, generator

NUM_SLOTS = 24


def tables(head_dim: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [64, D], in the layout of `RotaryEmbedding`: the first half of the sines is negated there."""
    frequencies = 100.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(64.0), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(device, dtype), torch.cat((-sin, sin), -1).to(device, dtype)


def inputs(num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device):
    random = generator(num_tokens)
    qkv = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim, generator=random).to(device, dtype)
    positions = torch.randint(0, 64, (num_tokens,), generator=random).to(device)
    slots = torch.randperm(NUM_SLOTS, generator=random)[:num_tokens].to(device)
    kv_layer = torch.randn(2, num_kv_heads, NUM_SLOTS, head_dim, generator=random).to(device, dtype)
    return qkv, positions, slots, kv_layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "num_kv_heads", "head_dim"),
    [(1, 1, 1, 16), (5, 4, 2, 64), (3, 7, 1, 80), (4, 9, 3, 96), (0, 4, 2, 16)],
)
def test_rotate_and_store(
    num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, has_norm: bool, dtype: torch.dtype,
    device: torch.device,
) -> None:  # fmt: skip
    qkv, positions, slots, kv_layer = inputs(num_tokens, num_heads, num_kv_heads, head_dim, dtype, device)
    cos, sin = (table[:, head_dim // 2 :] for table in tables(head_dim, dtype, device))
    norm = None
    if has_norm:
        norm = QKNorm(*torch.randn(2, head_dim, generator=generator(9)).to(device, dtype), eps=1e-6)
    expected_qkv, expected_layer = qkv.clone(), kv_layer.clone()
    rotate_and_store_reference(expected_qkv, cos, sin, positions, slots, expected_layer, num_heads=num_heads, norm=norm)
    rotate_and_store(qkv, cos, sin, positions, slots, kv_layer, num_heads=num_heads, norm=norm)
    assert_close(qkv, expected_qkv)
    assert_close(kv_layer, expected_layer)


def test_it_rotates_as_the_models_do(device: torch.device) -> None:
    qkv, positions, slots, kv_layer = inputs(5, 4, 2, 16, torch.float32, device)
    cos, sin = tables(16, torch.float32, device)
    expected = qkv.clone()
    rotate_(expected[:, :6], cos[positions].unsqueeze(1), sin[positions].unsqueeze(1))
    rotate_and_store(qkv, cos[:, 8:], sin[:, 8:], positions, slots, kv_layer, num_heads=4)
    assert_close(qkv[:, :4], expected[:, :4])
    assert_close(kv_layer[0, :, slots], expected[:, 4:6].transpose(0, 1))
    assert torch.equal(kv_layer[1, :, slots], expected[:, 6:].transpose(0, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_store_kv_leaves_padding_out(dtype: torch.dtype, device: torch.device) -> None:
    _, _, slots, kv_layer = inputs(6, 1, 3, 48, dtype, device)
    key_value = torch.randn(6, 7, 48, generator=generator(5)).to(device, dtype)[:, 1:]  # as a model slices it
    slots[[1, 4]] = NO_SLOT
    expected = kv_layer.clone()
    store_kv_reference(key_value, slots, expected)
    store_kv(key_value, slots, kv_layer)
    assert torch.equal(kv_layer, expected)


def test_tables_that_lie_differently_are_refused(device: torch.device) -> None:
    qkv, positions, slots, kv_layer = inputs(1, 1, 1, 16, torch.float32, device)
    cos, sin = tables(16, torch.float32, device)
    with pytest.raises(ValueError, match="they must lie alike"):
        rotate_and_store(qkv, cos[:, :8], sin[:, :8].contiguous(), positions, slots, kv_layer, num_heads=1)
