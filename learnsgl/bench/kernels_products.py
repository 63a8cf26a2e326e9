"""The products of a few tokens in `learnsgl bench kernels`: in one launch with what stands around them, and apart.

`kernels_cases.make_cases` takes them up. They are the four products of a layer, as `TritonOps` computes them in a
decode step of few rows; the way `learnsgl, apart` is what it does with more rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from learnsgl.bench.kernels_data import Case, Compute, Shape
from learnsgl.kernels.configs import read_traits
from learnsgl.kernels.few_tokens import Around, few_tokens_bytes, few_tokens_product, fits
from learnsgl.kernels.rms_norm import rms_norm
from learnsgl.kernels.silu_mul import silu_and_mul

_EPS = 1e-6


def product_cases(shape: Shape, num_tokens: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """The products of one layer for so many tokens, as far as the kernel is made for them."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    num_features = shape.num_heads * shape.head_dim
    num_all = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    norm = torch.ones(hidden, dtype=dtype, device=device)
    for name, num_outputs, num_inputs, around in (
        ("norm, qkv", num_all, hidden, Around(norm, _EPS)),
        ("o, sum", hidden, num_features, Around(is_added=True)),
        ("norm, gate, up, silu", inner, hidden, Around(norm, _EPS, is_gated=True)),
        ("down, sum", hidden, inner, Around(is_added=True)),
    ):
        num_rows = 2 * num_outputs if around.is_gated else num_outputs
        weight = torch.randn(num_rows, num_inputs, dtype=dtype, device=device) * num_inputs**-0.5
        if not fits(num_tokens, weight):
            continue
        x = torch.randn(num_tokens, num_inputs, dtype=dtype, device=device)
        residual = torch.randn(num_tokens, num_outputs, dtype=dtype, device=device)
        yield Case(
            "few-tokens-product", f"{num_tokens} tokens, {name}",
            few_tokens_bytes(num_tokens, num_outputs, num_inputs, dtype.itemsize, around),
            2 * num_tokens * num_rows * num_inputs, _ways(x, weight, around, residual), compiles=True,
        )  # fmt: skip


def _ways(x: torch.Tensor, weight: torch.Tensor, around: Around, residual: torch.Tensor) -> dict[str, Compute]:
    """Each adds to a residual of its own, where it adds."""
    num_sms = read_traits(x.device).num_sms
    sums = [residual.clone() for _ in range(3)] if around.is_added else [None] * 3

    def finished(result: torch.Tensor, into: torch.Tensor | None) -> torch.Tensor:
        return result if into is None else into.add_(result)

    def in_one_launch() -> torch.Tensor:
        return few_tokens_product(x, weight, None, around, num_sms=num_sms, out=sums[0])

    def apart() -> torch.Tensor:
        normed = x if around.norm_weight is None else rms_norm(x, around.norm_weight, _EPS)
        result = F.linear(normed, weight)
        return finished(silu_and_mul(result) if around.is_gated else result, sums[1])

    def by_torch() -> torch.Tensor:
        norm = around.norm_weight
        normed = x if norm is None else F.rms_norm(x, norm.shape, norm, _EPS)
        result = F.linear(normed, weight)
        if around.is_gated:
            gate, up = result.chunk(2, dim=-1)
            result = F.silu(gate) * up
        return finished(result, sums[2])

    return {"learnsgl": in_one_launch, "learnsgl, apart": apart, "torch": by_torch}
