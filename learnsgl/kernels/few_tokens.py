"""Matrix products of a few tokens on the GPU, each in one launch with what comes before and after it.

`TritonOps` takes them for decode steps of up to `MAX_TOKENS` rows of a small model. There a product is a walk over its
weights that lasts a few microseconds, so that the launches of norm, activation and sum beside it count as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from learnsgl.kernels.configs import product_tiles
from learnsgl.kernels.launch import Launch, check_rows
from learnsgl.kernels.rms_norm import rms_norm_reference

MAX_TOKENS = 16
"""Rows of the matrix units' smallest tile: so many tokens cost the same walk over the weights as one."""

MAX_WEIGHT_BYTES = 64 << 20
"""Above, a walk takes so long (20 µs at 3 TB/s) that the launches saved don't count, and libraries choose better."""


@dataclass(frozen=True, slots=True)
class Around:
    """What is computed in the same launch as a product.

    Attributes:
        norm_weight: [K]; the rows of x are normalised by their root mean square before. `None`: they aren't.
        eps: added to the mean square.
        is_gated: the weights' first half gives gates: silu(gate) * up is what comes out.
        is_added: the result is added to what `out` holds.
    """

    norm_weight: torch.Tensor | None = None
    eps: float = 0.0
    is_gated: bool = False
    is_added: bool = False


def fits(num_tokens: int, weight: torch.Tensor) -> bool:
    """Whether a product is one for which these kernels are made.

    Only bfloat16: the norm's factor comes after the sum, and with it squares of float16's range could overflow.
    """
    return num_tokens <= MAX_TOKENS and weight.dtype == torch.bfloat16 and weight.nbytes <= MAX_WEIGHT_BYTES


def few_tokens_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    around: Around,
    *,
    num_sms: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x W^T + b for a few tokens, with its norm, its gate or its sum.

    Fused: all of `around`. Each program takes some output features and walks over all of x; x is so small that it is
    read from the cache.

    Args:
        x: [T, K], T at most `MAX_TOKENS`.
        weight: [N, K], or [2 * N, K] with gates and then ups.
        bias: [N] or [2 * N], or `None`.
        around: what else is computed.
        num_sms: multiprocessors of the device.
        out: [T, N], where the result goes; needed if it is added.

    Returns:
        [T, N]. Sums are fp32, rounded once.

    Raises:
        ValueError: a tensor isn't dense along its last axis, or there are too many tokens.

    Source: the norm's factor taken out of the sum is Flash normalization (Graef et al., 2024).
    """
    num_features = weight.shape[0] // (2 if around.is_gated else 1)
    result = x.new_empty(x.shape[0], num_features) if out is None else out
    few_tokens_launch(x, weight, bias, around, result, num_sms=num_sms).run()
    return result


def few_tokens_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    around: Around,
    out: torch.Tensor,
    *,
    num_sms: int,
) -> Launch:
    """The launch of `few_tokens_product` into `out`."""
    for name, tensor in (("x", x), ("weight", weight), ("out", out)):
        check_rows(name, tensor)
    num_tokens, num_inputs = x.shape
    if num_tokens > MAX_TOKENS:
        raise ValueError(f"x has {num_tokens} tokens; these kernels take at most {MAX_TOKENS}")
    num_features = out.shape[1]
    tiles = product_tiles(num_features, num_sms, is_gated=around.is_gated)
    args = {
        "x_ptr": x, "weight_ptr": weight, "bias_ptr": bias, "norm_ptr": around.norm_weight, "out_ptr": out,
        "num_tokens": num_tokens, "x_stride": x.stride(0), "weight_stride": weight.stride(0),
        "out_stride": out.stride(0), "eps": around.eps, "NUM_FEATURES": num_features, "NUM_INPUTS": num_inputs,
        "BLOCK_M": MAX_TOKENS, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k, "PARTS": tiles.num_warps,
        "HAS_NORM": around.norm_weight is not None, "HAS_BIAS": bias is not None, "GATED": around.is_gated,
        "ADDED": around.is_added,
    }  # fmt: skip
    grid = (triton.cdiv(num_features, tiles.block_n) if num_tokens else 0, 1, 1)
    return Launch(_few_tokens_kernel, grid, args, tiles.num_warps, tiles.num_stages)


def few_tokens_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, around: Around, out: torch.Tensor | None = None
) -> torch.Tensor:
    """`few_tokens_product` in plain torch, in fp32 and rounded once; the same `out` gets the result."""
    wide = x.float()
    if around.norm_weight is not None:
        wide = rms_norm_reference(wide, around.norm_weight.float(), around.eps)
    result = F.linear(wide, weight.float(), None if bias is None else bias.float())
    if around.is_gated:
        gate, up = result.chunk(2, dim=-1)
        result = F.silu(gate) * up
    if out is None:
        return result.to(x.dtype)
    return out.copy_(result + out.float() if around.is_added else result)


def few_tokens_bytes(num_tokens: int, num_features: int, num_inputs: int, itemsize: int, around: Around) -> int:
    """Bytes that `few_tokens_product` must move: the weights, x and the result, which is read too if it is added to."""
    weights = (2 if around.is_gated else 1) * num_features * num_inputs
    norm = 0 if around.norm_weight is None else num_inputs
    results = num_tokens * num_features * (2 if around.is_added else 1)
    return (weights + norm + num_tokens * num_inputs + results) * itemsize


@triton.jit(do_not_specialize=["num_tokens"])
def _few_tokens_kernel(
    x_ptr, weight_ptr, bias_ptr, norm_ptr, out_ptr, num_tokens, x_stride, weight_stride, out_stride, eps,
    NUM_FEATURES: tl.constexpr, NUM_INPUTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, PARTS: tl.constexpr, HAS_NORM: tl.constexpr, HAS_BIAS: tl.constexpr, GATED: tl.constexpr,
    ADDED: tl.constexpr,
):  # fmt: skip
    """One program for some output features of all tokens, in which each warp adds up a part of the inputs.

    A product that adds to the result of another waits for it, about 33 cycles. Where a tile has 8 or 16 features, all
    warps would walk the same long chain of them. So it is a batch of PARTS products, and each warp gets one of them.
    """
    tokens = tl.arange(0, BLOCK_M)
    there = tokens < num_tokens
    features = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    # beyond the last feature it is read again, so that loads of weights need no mask
    rows = tl.minimum(features, NUM_FEATURES - 1)
    weights = weight_ptr + (rows.to(tl.int64) * weight_stride)[None, :, None]
    x_rows = x_ptr + (tokens * x_stride)[None, :, None]
    part = tl.arange(0, PARTS)[:, None, None] * (BLOCK_K // PARTS) + tl.arange(0, BLOCK_K // PARTS)[None, None, :]
    total = tl.zeros((PARTS, BLOCK_M, BLOCK_N), tl.float32)
    total_up = tl.zeros((PARTS, BLOCK_M, BLOCK_N), tl.float32)
    squares = tl.zeros((PARTS, BLOCK_M, BLOCK_K // PARTS), tl.float32)
    for start in range(0, NUM_INPUTS, BLOCK_K):
        inputs = start + part
        inside = inputs < NUM_INPUTS
        x = tl.load(x_rows + inputs, mask=there[None, :, None] & inside, other=0.0)
        if HAS_NORM:
            wide = x.to(tl.float32)
            squares += wide * wide
            x = (wide * tl.load(norm_ptr + inputs, mask=inside, other=0.0).to(tl.float32)).to(x.dtype)
        if NUM_INPUTS % BLOCK_K == 0:
            weight = tl.load(weights + inputs)
        else:
            weight = tl.load(weights + inputs, mask=inside, other=0.0)
        total = tl.dot(x, tl.permute(weight, (0, 2, 1)), total)
        if GATED:
            ups = weights + NUM_FEATURES * weight_stride + inputs
            if NUM_INPUTS % BLOCK_K == 0:  # noqa: SIM108 - constants are decided in an `if` of its own
                up = tl.load(ups)
            else:
                up = tl.load(ups, mask=inside, other=0.0)
            total_up = tl.dot(x, tl.permute(up, (0, 2, 1)), total_up)
    total = tl.sum(total, axis=0)
    total_up = tl.sum(total_up, axis=0)
    if HAS_NORM:
        inverse_rms = tl.rsqrt(tl.sum(tl.sum(squares, axis=2), axis=0) / NUM_INPUTS + eps)[:, None]
        total = total * inverse_rms
        total_up = total_up * inverse_rms
    if HAS_BIAS:
        total += tl.load(bias_ptr + rows).to(tl.float32)[None, :]
    if GATED:
        if HAS_BIAS:
            total_up += tl.load(bias_ptr + NUM_FEATURES + rows).to(tl.float32)[None, :]
        total = total * tl.sigmoid(total) * total_up
    places = out_ptr + tokens[:, None] * out_stride + features[None, :]
    kept = there[:, None] & (features < NUM_FEATURES)[None, :]
    if ADDED:
        total += tl.load(places, mask=kept, other=0.0).to(tl.float32)
    tl.store(places, total.to(out_ptr.dtype.element_ty), mask=kept)
