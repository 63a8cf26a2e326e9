"""Heads that decode attention normalises, rotates and stores by itself, so that a decode step needs no launch for it.

`decode_attention.py` has the kernel, `rotary_store.py` the same as a launch of its own, for steps with prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from learnsgl.kernels.launch import check_rows
from learnsgl.kernels.rotary_store import QKNorm


@dataclass(frozen=True, slots=True)
class OwnTokens:
    """Heads as the projection gave them, of which the kernel makes queries, keys and values itself.

    Attributes:
        slots: int64 [at least T]; where a token's key and value are kept.
        cos: [P, D / 2], of every position there can be; D is even.
        sin: likewise, not negated, with the same stride.
        norm: per-head norms that come before the rotation.
    """

    slots: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    norm: QKNorm | None


def own_args(own: OwnTokens | None) -> dict[str, Any]:
    """The kernel's arguments; without own tokens they are there and empty.

    Raises:
        ValueError: cos or sin isn't dense along its last axis, or they lie differently.
    """
    names = ("slots_ptr", "cos_ptr", "sin_ptr", "q_weight_ptr", "k_weight_ptr")
    if own is None:
        return {**dict.fromkeys(names), "table_stride": 0, "eps": 0.0, "OWN": False, "HAS_NORM": False}
    check_rows("cos", own.cos)
    check_rows("sin", own.sin)
    if own.cos.stride(0) != own.sin.stride(0):
        raise ValueError(f"cos has strides {own.cos.stride()} and sin {own.sin.stride()}; they must lie alike")
    weights = (None, None) if own.norm is None else (own.norm.q_weight, own.norm.k_weight)
    eps = 0.0 if own.norm is None else own.norm.eps
    args = dict(zip(names, (own.slots, own.cos, own.sin, *weights), strict=True))
    return {**args, "table_stride": own.cos.stride(0), "eps": eps, "OWN": True, "HAS_NORM": own.norm is not None}


@triton.jit
def rotated(heads_ptr, weight_ptr, inside, cos, sin, eps, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
             HAS_NORM: tl.constexpr):  # fmt: skip
    """Heads [R, BLOCK_D], normalised and rotated, fp32; `heads_ptr` is [R, 1], sines are negated in the first half."""
    dims = tl.arange(0, BLOCK_D)
    others = (dims + HEAD_DIM // 2) % HEAD_DIM  # the other feature of each pair
    x = tl.load(heads_ptr + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    y = tl.load(heads_ptr + others[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        inverse_rms = tl.rsqrt(tl.sum(x * x, axis=1) / HEAD_DIM + eps)[:, None]
        within = dims < HEAD_DIM
        x = x * inverse_rms * tl.load(weight_ptr + dims, mask=within, other=0.0).to(tl.float32)[None, :]
        y = y * inverse_rms * tl.load(weight_ptr + others, mask=within, other=0.0).to(tl.float32)[None, :]
    return x * cos + y * sin
