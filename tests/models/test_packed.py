"""Layers in oneDNN's order give the same products, for any number of tokens, and only where that works."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from learnsgl.models.layers import Linear
from learnsgl.models.packed import LEAST_ROWS, can_pack, pack, pad_rows

CPU = torch.device("cpu")


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("num_tokens", [0, 1, LEAST_ROWS - 1, LEAST_ROWS, 5, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out_features", "in_features"), [(24, 16), (25, 33), (1, 7), (5000, 48)])
def test_it_is_the_same_product(num_tokens: int, dtype: torch.dtype, out_features: int, in_features: int) -> None:
    if not can_pack(CPU, dtype):
        pytest.skip(f"this processor has no packed products of {dtype}")
    x, weight = random(num_tokens, in_features, dtype=dtype), random(out_features, in_features, dtype=dtype, seed=1)
    for bias in (None, random(out_features, dtype=dtype, seed=2)):
        layer = pack(Linear(weight, bias))
        y = layer(x)
        torch.testing.assert_close(
            y, F.linear(x, weight, bias), atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0.01
        )
        assert y.is_contiguous()
        assert layer.nbytes == (weight.numel() + (0 if bias is None else bias.numel())) * dtype.itemsize


def test_rows_are_padded() -> None:
    x = random(2, 3, dtype=torch.float32)
    for rows in (x[:0], x[:1], x):
        assert pad_rows(rows, 4).shape == (4, 3)
        assert torch.equal(pad_rows(rows, 4)[: len(rows)], rows)
    assert pad_rows(x, 2) is x
    assert pad_rows(x, 1) is x


def test_what_has_no_packed_products_keeps_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoOneDNN:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"no {name}")

    assert not can_pack(torch.device("cuda"), torch.float32)
    assert not can_pack(CPU, torch.float64)
    monkeypatch.setattr(torch.ops, "mkldnn", NoOneDNN())
    assert not can_pack(CPU, torch.float32)
