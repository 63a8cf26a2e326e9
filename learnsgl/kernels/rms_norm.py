"""RMSNorm on the GPU: with the residual that is added before it, and per head on queries and keys (Qwen3).

A model calls `rms_norm` twice a layer and `qk_norm_` once where it has such norms; the fused rotation of
`rotary_store.py` can take the latter over.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from learnsgl.kernels.launch import Launch, check_rows, power_of_2


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """x / rms(x) * weight, after `residual` is added to x where there is one.

    Fused: the sum, its way back to memory, and the norm. The sum is rounded to the dtype before it is normalised, so
    that the norm sees what the next layer adds to.

    Args:
        x: [T, size], fp16, bf16 or fp32. Not changed.
        weight: [size].
        eps: added to the mean square.
        residual: [T, size]; becomes residual + x in place.

    Returns:
        [T, size], x's dtype. Sums are fp32.

    Raises:
        ValueError: x or the residual isn't dense along its last axis.

    Source: Root Mean Square Layer Normalization (Zhang and Sennrich, 2019), equation 4; one program a row as in
    Triton's tutorial on layer normalisation.
    """
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rms_norm_launch(x, weight, eps, residual, out).run()
    return out


def rms_norm_launch(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None, out: torch.Tensor
) -> Launch:
    """The launch of `rms_norm` into `out`."""
    check_rows("x", x)
    if residual is not None:
        check_rows("residual", residual)
    num_rows, size = x.shape
    block = power_of_2(size, at_least=32)
    args = {
        "x_ptr": x, "residual_ptr": residual, "weight_ptr": weight, "out_ptr": out, "x_stride": x.stride(0),
        "residual_stride": 0 if residual is None else residual.stride(0), "out_stride": out.stride(0), "eps": eps,
        "SIZE": size, "BLOCK": block, "HAS_RESIDUAL": residual is not None,
    }  # fmt: skip
    # 8 elements (16 bytes) a thread, as long as that gives at least one warp and at most 16
    return Launch(_rms_norm_kernel, (num_rows, 1, 1), args, num_warps=min(16, max(1, block // 256)))


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """`rms_norm` in plain torch, with the same roundings."""
    if residual is not None:
        x = residual.add_(x)
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def rms_norm_bytes(num_tokens: int, size: int, itemsize: int, *, has_residual: bool) -> int:
    """Bytes that `rms_norm` must move: x in and out, the residual in and out, the weight once."""
    return (num_tokens * (4 if has_residual else 2) + 1) * size * itemsize


def qk_norm_(
    qkv: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, eps: float, *, num_heads: int, num_kv_heads: int
) -> None:
    """Normalise every query and key head by itself, in place; values stay as they are.

    Args:
        qkv: [T, H + KV or more, D]; query heads, key heads, and perhaps value heads behind them.
        q_weight: [D].
        k_weight: [D].
        eps: added to the mean square.
        num_heads: H.
        num_kv_heads: KV.

    Raises:
        ValueError: qkv isn't dense along its last axis.

    Source: Qwen3 Technical Report (2025), section 2, "QK-Norm", after Dehghani et al., 2023.
    """
    qk_norm_launch(qkv, q_weight, k_weight, eps, num_heads=num_heads, num_kv_heads=num_kv_heads).run()


def qk_norm_launch(
    qkv: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, eps: float, *, num_heads: int, num_kv_heads: int
) -> Launch:
    """The launch of `qk_norm_`."""
    check_rows("qkv", qkv)
    num_tokens, _, head_dim = qkv.shape
    heads_block = min(8, power_of_2(num_heads + num_kv_heads))
    args = {
        "qkv_ptr": qkv, "q_weight_ptr": q_weight, "k_weight_ptr": k_weight, "eps": eps, "token_stride": qkv.stride(0),
        "head_stride": qkv.stride(1), "NUM_HEADS": num_heads, "NUM_KV_HEADS": num_kv_heads, "HEAD_DIM": head_dim,
        "BLOCK_D": power_of_2(head_dim), "HEADS_BLOCK": heads_block,
    }  # fmt: skip
    return Launch(
        _qk_norm_kernel, (num_tokens, triton.cdiv(num_heads + num_kv_heads, heads_block), 1), args, num_warps=4
    )


def qk_norm_reference_(
    qkv: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, eps: float, *, num_heads: int, num_kv_heads: int
) -> None:
    """`qk_norm_` in plain torch."""
    query, key = qkv[:, :num_heads], qkv[:, num_heads : num_heads + num_kv_heads]
    for heads, weight in ((query, q_weight), (key, k_weight)):
        heads.copy_(rms_norm_reference(heads, weight, eps))


def qk_norm_bytes(num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Bytes that `qk_norm_` must move: queries and keys in and out, two weights."""
    return (2 * num_tokens * (num_heads + num_kv_heads) + 2) * head_dim * itemsize


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, x_stride, residual_stride, out_stride, eps,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        place = residual_ptr + row * residual_stride + columns
        total = (x + tl.load(place, mask=inside, other=0.0).to(tl.float32)).to(residual_ptr.dtype.element_ty)
        tl.store(place, total, mask=inside)
        x = total.to(tl.float32)
    inverse_rms = tl.rsqrt(tl.sum(x * x) / SIZE + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    out = (x * inverse_rms * weight).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_stride + columns, out, mask=inside)


@triton.jit
def _qk_norm_kernel(
    qkv_ptr, q_weight_ptr, k_weight_ptr, eps, token_stride, head_stride,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
):  # fmt: skip
    """One program for some heads of one token."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
    dims = tl.arange(0, BLOCK_D)
    place = qkv_ptr + token * token_stride + heads[:, None] * head_stride + dims[None, :]
    inside = (heads < NUM_HEADS + NUM_KV_HEADS)[:, None] & (dims < HEAD_DIM)[None, :]
    x = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    q_weight = tl.load(q_weight_ptr + dims, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)
    k_weight = tl.load(k_weight_ptr + dims, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)
    weight = tl.where((heads < NUM_HEADS)[:, None], q_weight[None, :], k_weight[None, :])
    inverse_rms = tl.rsqrt(tl.sum(x * x, axis=1) / HEAD_DIM + eps)
    tl.store(place, (x * inverse_rms[:, None] * weight).to(qkv_ptr.dtype.element_ty), mask=inside)
