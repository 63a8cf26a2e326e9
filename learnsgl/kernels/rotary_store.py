"""Rotary embedding on the GPU together with the store of keys and values into their pages.

The fused call normalises (Qwen3), rotates and stores a step's heads in one launch, between the q, k, v product and
attention. A backend whose model has rotated already calls `store_kv`, the same kernel without its arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from learnsgl.kernels.launch import Launch, check_rows, power_of_2
from learnsgl.kernels.rms_norm import qk_norm_reference_

NO_SLOT = -1
"""The slot of a token that pads a batch (in a CUDA graph): nothing is stored for it."""

_HEADS_PER_PROGRAM = 8


@dataclass(frozen=True, slots=True)
class QKNorm:
    """Weights of the norms on query and key heads.

    Attributes:
        q_weight: [D].
        k_weight: [D].
        eps: added to the mean square.
    """

    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    kv_layer: torch.Tensor,
    *,
    num_heads: int,
    norm: QKNorm | None = None,
) -> None:
    """Rotate queries in place, and keys on their way into the pages, where values go too; normalise both heads before.

    Fused: two norms, the lookup of the angles, two rotations and two scatters. Keys aren't written back to `qkv`.

    Args:
        qkv: [T, H + 2 KV, D], fp16, bf16 or fp32; D even. Its query heads are changed in place.
        cos: [P, at least D / 2]; column i belongs to the pair of features i and i + D / 2.
        sin: likewise, not negated, with the same stride.
        positions: integers [T], below P. Those of padding are read too, so they must be valid.
        slots: int64 [T]; where a token's key and value are kept. `NO_SLOT` keeps neither.
        kv_layer: [2, KV, num_slots, D], as in `KVPool`; the new keys and values are written there.
        num_heads: H.
        norm: per-head norms that come before the rotation.

    Raises:
        ValueError: a tensor isn't dense along its last axis, or cos and sin lie differently.

    Source: RoFormer (Su et al., 2021), section 3.2; fusing it with the store as FlashInfer and TensorRT-LLM do.
    """
    rotate_and_store_launch(qkv, cos, sin, positions, slots, kv_layer, num_heads=num_heads, norm=norm).run()


def store_kv(key_value: torch.Tensor, slots: torch.Tensor, kv_layer: torch.Tensor) -> None:
    """Keep keys and values, rotated already, in their pages.

    Args:
        key_value: [T, 2 KV, D]; key heads, then value heads.
        slots: int64 [T]; `NO_SLOT` keeps nothing.
        kv_layer: [2, KV, num_slots, D].

    Raises:
        ValueError: a tensor isn't dense along its last axis.
    """
    store_kv_launch(key_value, slots, kv_layer).run()


def rotate_and_store_launch(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    kv_layer: torch.Tensor,
    *,
    num_heads: int,
    norm: QKNorm | None = None,
) -> Launch:
    """The launch of `rotate_and_store`."""
    check_rows("cos", cos)
    check_rows("sin", sin)
    if cos.stride(0) != sin.stride(0):
        raise ValueError(f"cos has strides {cos.stride()} and sin {sin.stride()}; they must lie alike")
    rotation = {"cos_ptr": cos, "sin_ptr": sin, "positions_ptr": positions, "table_stride": cos.stride(0)}
    norms = {"q_weight_ptr": None, "k_weight_ptr": None, "eps": 0.0}
    if norm is not None:
        norms = {"q_weight_ptr": norm.q_weight, "k_weight_ptr": norm.k_weight, "eps": norm.eps}
    return _launch(qkv, slots, kv_layer, num_heads, rotation | norms, ROTATE=True, HAS_NORM=norm is not None)


def store_kv_launch(key_value: torch.Tensor, slots: torch.Tensor, kv_layer: torch.Tensor) -> Launch:
    """The launch of `store_kv`."""
    unused = dict.fromkeys(("cos_ptr", "sin_ptr", "positions_ptr", "q_weight_ptr", "k_weight_ptr"))
    unused |= {"table_stride": 0, "eps": 0.0}
    return _launch(key_value, slots, kv_layer, 0, unused, ROTATE=False, HAS_NORM=False)


def _launch(
    heads: torch.Tensor, slots: torch.Tensor, kv_layer: torch.Tensor, num_heads: int, others: dict, **flags: bool
) -> Launch:
    check_rows("qkv", heads)
    check_rows("kv_layer", kv_layer)
    num_tokens, _, head_dim = heads.shape
    num_kv_heads = kv_layer.shape[1]
    num_all = num_heads + 2 * num_kv_heads
    args = {
        "heads_ptr": heads, "slots_ptr": slots, "key_ptr": kv_layer[0], "value_ptr": kv_layer[1], **others,
        "token_stride": heads.stride(0), "head_stride": heads.stride(1), "cache_head_stride": kv_layer.stride(1),
        "cache_slot_stride": kv_layer.stride(2), "NUM_HEADS": num_heads, "NUM_KV_HEADS": num_kv_heads,
        "HALF": head_dim // 2, "BLOCK_HALF": power_of_2(head_dim // 2), "HEADS_BLOCK": _HEADS_PER_PROGRAM, **flags,
    }  # fmt: skip
    return Launch(_rotate_and_store_kernel, (num_tokens, triton.cdiv(num_all, _HEADS_PER_PROGRAM), 1), args, 4)


def rotate_and_store_reference(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    kv_layer: torch.Tensor,
    *,
    num_heads: int,
    norm: QKNorm | None = None,
    has_padding: bool = True,
) -> None:
    """`rotate_and_store` in plain torch, computed in fp32 and rounded once.

    With `has_padding` it asks the device how many slots there really are, and waits for it.
    """
    num_kv_heads, half = kv_layer.shape[1], qkv.shape[2] // 2
    wide = qkv.to(torch.float32, copy=True)
    if norm is not None:
        qk_norm_reference_(wide, norm.q_weight, norm.k_weight, norm.eps, num_heads=num_heads, num_kv_heads=num_kv_heads)
    turned, values = wide[:, : num_heads + num_kv_heads], wide[:, num_heads + num_kv_heads :]
    c, s = (table[positions.long(), None, :half].float() for table in (cos, sin))
    first, second = turned[..., :half], turned[..., half:]
    turned = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
    qkv[:, :num_heads] = turned[:, :num_heads].to(qkv.dtype)
    store_kv_reference(torch.cat((turned[:, num_heads:], values), dim=1), slots, kv_layer, has_padding=has_padding)


def store_kv_reference(
    key_value: torch.Tensor, slots: torch.Tensor, kv_layer: torch.Tensor, *, has_padding: bool = True
) -> None:
    """`store_kv` in plain torch."""
    if has_padding:
        key_value, slots = key_value[slots != NO_SLOT], slots[slots != NO_SLOT]
    keys_and_values = key_value.unflatten(1, (2, -1)).permute(1, 2, 0, 3)  # [2, KV, T, D]
    kv_layer.index_copy_(2, slots, keys_and_values.to(kv_layer.dtype))


def rotate_and_store_bytes(num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Bytes that `rotate_and_store` must move: all heads in and out, angles and slots (16 bytes) once a token.

    The angles are counted in the dtype of the heads.
    """
    heads = 2 * (num_heads + 2 * num_kv_heads) * head_dim * itemsize
    return num_tokens * (heads + head_dim * itemsize + 16)


def store_kv_bytes(num_tokens: int, num_kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Bytes that `store_kv` must move: keys and values in and out, and the slots."""
    return num_tokens * (4 * num_kv_heads * head_dim * itemsize + 8)


@triton.jit
def _rotate_and_store_kernel(
    heads_ptr, slots_ptr, key_ptr, value_ptr, cos_ptr, sin_ptr, positions_ptr, q_weight_ptr, k_weight_ptr, eps,
    table_stride, token_stride, head_stride, cache_head_stride, cache_slot_stride,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_HALF: tl.constexpr,
    HEADS_BLOCK: tl.constexpr, ROTATE: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """One program for some heads of one token, each as its two halves."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
    columns = tl.arange(0, BLOCK_HALF)
    within = columns < HALF
    inside = (heads < NUM_HEADS + 2 * NUM_KV_HEADS)[:, None] & within[None, :]
    is_query = (heads < NUM_HEADS)[:, None]
    is_key = ((heads >= NUM_HEADS) & (heads < NUM_HEADS + NUM_KV_HEADS))[:, None]
    is_value = (heads >= NUM_HEADS + NUM_KV_HEADS)[:, None]
    place = heads_ptr + token * token_stride + heads[:, None] * head_stride + columns[None, :]
    first = tl.load(place, mask=inside, other=0.0)
    second = tl.load(place + HALF, mask=inside, other=0.0)
    dtype = first.dtype
    if HAS_NORM:
        a, b = first.to(tl.float32), second.to(tl.float32)
        inverse_rms = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / (2 * HALF) + eps)[:, None]
        q_first = tl.load(q_weight_ptr + columns, mask=within, other=0.0)[None, :].to(tl.float32)
        k_first = tl.load(k_weight_ptr + columns, mask=within, other=0.0)[None, :].to(tl.float32)
        q_second = tl.load(q_weight_ptr + HALF + columns, mask=within, other=0.0)[None, :].to(tl.float32)
        k_second = tl.load(k_weight_ptr + HALF + columns, mask=within, other=0.0)[None, :].to(tl.float32)
        first = tl.where(is_value, a, a * inverse_rms * tl.where(is_query, q_first, k_first))
        second = tl.where(is_value, b, b * inverse_rms * tl.where(is_query, q_second, k_second))
    if ROTATE:
        position = tl.load(positions_ptr + token).to(tl.int64)
        cos = tl.load(cos_ptr + position * table_stride + columns, mask=within, other=0.0)[None, :].to(tl.float32)
        sin = tl.load(sin_ptr + position * table_stride + columns, mask=within, other=0.0)[None, :].to(tl.float32)
        a, b = first.to(tl.float32), second.to(tl.float32)
        first = tl.where(is_value, a, a * cos - b * sin).to(dtype)
        second = tl.where(is_value, b, b * cos + a * sin).to(dtype)
        tl.store(place, first, mask=inside & is_query)
        tl.store(place + HALF, second, mask=inside & is_query)

    slot = tl.load(slots_ptr + token).to(tl.int64)
    if slot >= 0:
        head_place = slot * cache_slot_stride + columns[None, :]
        key_head, value_head = heads - NUM_HEADS, heads - NUM_HEADS - NUM_KV_HEADS
        key_place = key_ptr + head_place + key_head.to(tl.int64)[:, None] * cache_head_stride
        tl.store(key_place, first, mask=inside & is_key)
        tl.store(key_place + HALF, second, mask=inside & is_key)
        value_place = value_ptr + head_place + value_head.to(tl.int64)[:, None] * cache_head_stride
        tl.store(value_place, first, mask=inside & is_value)
        tl.store(value_place + HALF, second, mask=inside & is_value)
