"""RMSNorm, per-head norms and SwiGLU beside plain torch."""

from __future__ import annotations

import pytest
import torch

from learnsgl.kernels.rms_norm import qk_norm_, qk_norm_reference_, rms_norm, rms_norm_reference
from learnsgl.kernels.silu_mul import silu_and_mul, silu_and_mul_reference
from tests.kernels.cases import DTYPES, assert_close, generator


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (2, 576), (5, 1000), (0, 64)])
def test_rms_norm(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    random = generator(1)
    x = torch.randn(shape, generator=random).to(device, dtype)
    weight = torch.randn(shape[1], generator=random).to(device, dtype)
    assert_close(rms_norm(x, weight, 1e-5), rms_norm_reference(x, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_adds_the_residual_in_place(dtype: torch.dtype, device: torch.device) -> None:
    random = generator(2)
    wide = torch.randn(4, 2 * 96, generator=random).to(device, dtype)
    x = wide[:, :96]  # rows needn't follow each other
    weight = torch.randn(96, generator=random).to(device, dtype)
    residual = torch.randn(4, 96, generator=random).to(device, dtype)
    expected_residual, before = residual.clone(), x.clone()
    expected = rms_norm_reference(x, weight, 1e-6, residual=expected_residual)
    actual = rms_norm(x, weight, 1e-6, residual=residual)
    assert_close(residual, expected_residual)  # the interpreter cuts bfloat16 off where a GPU rounds
    assert torch.equal(x, before)
    assert_close(actual, expected)


def test_rms_norm_of_zeros_and_of_great_numbers(device: torch.device) -> None:
    weight = torch.ones(8, device=device)
    assert torch.equal(rms_norm(torch.zeros(1, 8, device=device), weight, 1e-5), torch.zeros(1, 8, device=device))
    # squares of bfloat16's greatest numbers don't fit, but those of fp16 do
    great = torch.full((1, 8), 6e4, dtype=torch.float16, device=device)
    assert_close(rms_norm(great, weight.half(), 1e-5), torch.ones(1, 8, device=device))


def test_rms_norm_refuses_columns(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"x has strides \(1, 4\); its last axis must be dense"):
        rms_norm(torch.zeros(8, 4, device=device).t(), torch.ones(8, device=device), 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(4, 2, 16), (1, 1, 64), (7, 1, 80), (9, 3, 96)])
def test_qk_norm(num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
    random = generator(3)
    qkv = torch.randn(3, num_heads + 2 * num_kv_heads, head_dim, generator=random).to(device, dtype)
    q_weight, k_weight = torch.randn(2, head_dim, generator=random).to(device, dtype)
    expected = qkv.clone()
    sizes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}
    qk_norm_reference_(expected, q_weight, k_weight, 1e-6, **sizes)
    values = qkv[:, num_heads + num_kv_heads :].clone()
    qk_norm_(qkv, q_weight, k_weight, 1e-6, **sizes)
    assert_close(qkv, expected)
    assert torch.equal(qkv[:, num_heads + num_kv_heads :], values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 1536), (3, 1000), (0, 8)])
def test_silu_and_mul(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    gate_up = (3 * torch.randn(shape[0], 2 * shape[1], generator=generator(4))).to(device, dtype)
    assert_close(silu_and_mul(gate_up), silu_and_mul_reference(gate_up))
