"""Attention of tokens that decode on the GPU: each context is split, the parts attended to beside each other, combined.

`TritonAttention` runs `decode_attention` in every layer, in CUDA graphs too: the grid and the number of splits are
the graph's, the lengths of the contexts are read on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from learnsgl.kernels.configs import MAX_SPLITS, Tiles
from learnsgl.kernels.launch import Launch, check_rows, power_of_2
from learnsgl.kernels.own_tokens import OwnTokens, own_args, rotated
from learnsgl.kernels.paged_attention import LOG2_E, attend

_COMBINE_BLOCK = 16


@dataclass(frozen=True, slots=True)
class DecodeTokens:
    """Which tokens of a step decode, and where their contexts are.

    Attributes:
        rows: int32 [at least T]; table row of each token of the step.
        context_lens: int32 [at least T]; keys that each token sees, its own among them; 0 for padding, whose result
            is 0.
        tokens: int32 [n]; which tokens of the step decode; `None` when the first n do.
        num_tokens: n.
    """

    rows: torch.Tensor
    context_lens: torch.Tensor
    tokens: torch.Tensor | None
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SplitBuffers:
    """What the parts of the contexts gave, until they are combined.

    Attributes:
        partials: fp32, at least n * H * num_splits * D elements.
        log_sums: fp32, at least n * H * num_splits elements; logarithms to base 2 of the sums of the weights.
    """

    partials: torch.Tensor
    log_sums: torch.Tensor


def decode_attention(
    query: torch.Tensor,
    kv_layer: torch.Tensor,
    page_table: torch.Tensor,
    tokens: DecodeTokens,
    out: torch.Tensor,
    *,
    page_size: int,
    scale: float,
    tiles: Tiles,
    num_splits: int,
    buffers: SplitBuffers,
    own: OwnTokens | None = None,
) -> None:
    """Grouped-query attention of single tokens over their rows' pages.

    Fused: page lookups, scores, softmax and the weighted sum. The query heads of a KV head are one tile, padded to 16
    rows for the matrix units, so that a key is read once for all of them.

    Args:
        query: [T, H, D], rotated.
        kv_layer: [2, KV, num_slots, D]; the tokens' own keys and values are there already.
        page_table: int32 [num_rows, max_pages].
        tokens: which tokens decode.
        out: [T, H, D]; rows of other tokens are left as they are.
        page_size: tokens a page.
        scale: of the scores, above 0.
        tiles: sizes, from `decode_tiles`.
        num_splits: parts of each context, from `choose_num_splits`. With 1 the second launch is left out.
        buffers: not read where num_splits is 1.
        own: where the step's heads are neither rotated nor stored yet: `query` is then [T, H + 2 KV, D], and isn't
            changed. Each program normalises and rotates its own query heads; the one with a context's end begins with
            the token's own key and value, which it also stores. So no launch is needed before this one.

    Raises:
        ValueError: a tensor isn't dense along its last axis.

    Source: Flash-Decoding (Dao, Haziza, Massa and Sizov, 2023).
    """
    for launch in decode_attention_launches(
        query, kv_layer, page_table, tokens, out, page_size=page_size, scale=scale, tiles=tiles, num_splits=num_splits,
        buffers=buffers, own=own,
    ):  # fmt: skip
        launch.run()


def decode_attention_launches(
    query: torch.Tensor,
    kv_layer: torch.Tensor,
    page_table: torch.Tensor,
    tokens: DecodeTokens,
    out: torch.Tensor,
    *,
    page_size: int,
    scale: float,
    tiles: Tiles,
    num_splits: int,
    buffers: SplitBuffers,
    own: OwnTokens | None = None,
) -> list[Launch]:
    """The launches of `decode_attention`: the parts, and the combining where there are several."""
    check_rows("query", query)
    check_rows("kv_layer", kv_layer)
    num_heads, head_dim = out.shape[1:]
    num_kv_heads = kv_layer.shape[1]
    shared = {
        "out_ptr": out, "partials_ptr": buffers.partials, "log_sums_ptr": buffers.log_sums,
        "context_lens_ptr": tokens.context_lens, "tokens_ptr": tokens.tokens, "num_splits": num_splits,
        "out_token_stride": out.stride(0), "out_head_stride": out.stride(1), "HEAD_DIM": head_dim,
        "BLOCK_D": power_of_2(head_dim, at_least=16), "BLOCK_N": tiles.block_n, "LISTED": tokens.tokens is not None,
    }  # fmt: skip
    args = {
        "query_ptr": query, "key_ptr": kv_layer[0], "value_ptr": kv_layer[1], "page_table_ptr": page_table,
        "rows_ptr": tokens.rows, "scale": scale * LOG2_E, "query_token_stride": query.stride(0),
        "query_head_stride": query.stride(1), "cache_head_stride": kv_layer.stride(1),
        "cache_slot_stride": kv_layer.stride(2), "page_table_stride": page_table.stride(0),
        "GROUP": num_heads // num_kv_heads, "BLOCK_H": tiles.block_m, "PAGE_SIZE": page_size, "SPLIT": num_splits > 1,
        **own_args(own),
    }  # fmt: skip
    grid = (tokens.num_tokens, num_kv_heads, num_splits)
    split = Launch(_split_kernel, grid, args | shared, tiles.num_warps, tiles.num_stages)
    if num_splits == 1:
        return [split]
    args = {"SPLITS_BLOCK": MAX_SPLITS, "STEP": _COMBINE_BLOCK}
    return [split, Launch(_combine_kernel, (tokens.num_tokens, num_heads, 1), args | shared, num_warps=4)]


def decode_attention_bytes(
    num_tokens: int, total_context_len: int, num_heads: int, num_kv_heads: int, head_dim: int, itemsize: int
) -> int:
    """Bytes that `decode_attention` must move: every context's keys and values once, queries in, results out."""
    return 2 * (total_context_len * num_kv_heads + num_tokens * num_heads) * head_dim * itemsize


@triton.jit
def _part_len(context_len, num_splits, BLOCK_N: tl.constexpr):
    """Keys in each part of a context but its last, whole blocks; parts may be left over, which are empty."""
    return tl.cdiv(tl.cdiv(context_len, num_splits), BLOCK_N) * BLOCK_N


@triton.jit(do_not_specialize=["num_splits", "page_table_stride"])
def _split_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, partials_ptr, log_sums_ptr, page_table_ptr, rows_ptr, context_lens_ptr,
    tokens_ptr, num_splits, scale, query_token_stride, query_head_stride, out_token_stride, out_head_stride,
    cache_head_stride, cache_slot_stride, page_table_stride, slots_ptr, cos_ptr, sin_ptr, q_weight_ptr, k_weight_ptr,
    table_stride, eps,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr,
    PAGE_SIZE: tl.constexpr, SPLIT: tl.constexpr, LISTED: tl.constexpr, OWN: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """One program a token, KV head and part of the context."""
    run = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    token = tl.load(tokens_ptr + run) if LISTED else run
    context_len = tl.load(context_lens_ptr + token)
    part_len = _part_len(context_len, num_splits, BLOCK_N)
    begin = split * part_len
    end = tl.minimum(begin + part_len, context_len)
    if SPLIT and begin >= end:
        return
    group = tl.arange(0, BLOCK_H)
    heads = kv_head * GROUP + group
    dims = tl.arange(0, BLOCK_D)
    inside = (group < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    token_ptr = query_ptr + token.to(tl.int64) * query_token_stride
    key_ptr += kv_head.to(tl.int64) * cache_head_stride
    value_ptr += kv_head.to(tl.int64) * cache_head_stride
    total = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    row_max = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_H,), tl.float32)
    if OWN:
        within = (dims < HEAD_DIM)[None, :]
        position = tl.maximum(context_len - 1, 0).to(tl.int64)
        pairs = dims % (HEAD_DIM // 2)
        cos = tl.load(cos_ptr + position * table_stride + pairs, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)[
            None, :
        ]
        sin = tl.load(sin_ptr + position * table_stride + pairs, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)[
            None, :
        ]
        sin = tl.where((dims < HEAD_DIM // 2)[None, :], -sin, sin)
        dtype: tl.constexpr = query_ptr.dtype.element_ty
        query = rotated(
            token_ptr + heads[:, None] * query_head_stride,
            q_weight_ptr,
            inside,
            cos,
            sin,
            eps,
            HEAD_DIM,
            BLOCK_D,
            HAS_NORM,
        ).to(dtype)
        one = tl.arange(0, 1)[:, None]
        own_ptr = token_ptr + (tl.num_programs(1) * GROUP + kv_head + one) * query_head_stride
        key = rotated(own_ptr, k_weight_ptr, within, cos, sin, eps, HEAD_DIM, BLOCK_D, HAS_NORM).to(dtype)
        own_ptr += tl.num_programs(1) * query_head_stride
        value = tl.load(own_ptr + dims[None, :], mask=within, other=0.0)
        # the part with the context's end keeps the two, and begins with them: a first key whose weight is 1
        is_mine = (end == context_len) & (context_len > 0)
        place = tl.load(slots_ptr + token).to(tl.int64) * cache_slot_stride + dims[None, :]
        if is_mine:
            tl.store(key_ptr + place, key, mask=within)
            tl.store(value_ptr + place, value, mask=within)
        score = tl.sum(query.to(tl.float32) * key.to(tl.float32), axis=1) * scale
        row_max = tl.where(is_mine, score, row_max)
        row_sum = tl.where(is_mine, 1.0, row_sum)
        total = tl.where(is_mine, value.to(tl.float32), total)
        end = tl.minimum(end, context_len - 1)
    else:
        query = tl.load(token_ptr + heads[:, None] * query_head_stride + dims[None, :], mask=inside, other=0.0)
    limits = tl.zeros((BLOCK_H,), tl.int32) + (end - 1)
    total, row_max, row_sum = attend(
        total, row_max, row_sum, query, key_ptr, value_ptr,
        page_table_ptr + tl.load(rows_ptr + token).to(tl.int64) * page_table_stride, begin, end, limits, end - 1, scale,
        cache_slot_stride, HEAD_DIM, BLOCK_D, BLOCK_N, PAGE_SIZE, MASKED=True,
    )  # fmt: skip
    # the sum is 0 for padding alone, which has no context
    result = total / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    if SPLIT:
        parts = (run.to(tl.int64) * (tl.num_programs(1) * GROUP) + heads) * num_splits + split
        tl.store(log_sums_ptr + parts, row_max + tl.log2(row_sum), mask=group < GROUP)
        tl.store(partials_ptr + parts[:, None] * HEAD_DIM + dims[None, :], result, mask=inside)
    else:
        out_places = token.to(tl.int64) * out_token_stride + heads[:, None] * out_head_stride + dims[None, :]
        tl.store(out_ptr + out_places, result.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_splits"])
def _combine_kernel(
    out_ptr, partials_ptr, log_sums_ptr, context_lens_ptr, tokens_ptr, num_splits, out_token_stride, out_head_stride,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, LISTED: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program a token and query head: the parts' results, weighted by their shares of the softmax's sum."""
    run = tl.program_id(0)
    head = tl.program_id(1)
    token = tl.load(tokens_ptr + run) if LISTED else run
    context_len = tl.load(context_lens_ptr + token)
    num_parts = tl.cdiv(context_len, tl.maximum(_part_len(context_len, num_splits, BLOCK_N), 1))
    first = (run.to(tl.int64) * tl.num_programs(1) + head) * num_splits
    parts = tl.arange(0, SPLITS_BLOCK)
    log_sums = tl.load(log_sums_ptr + first + parts, mask=parts < num_parts, other=float("-inf"))
    greatest = tl.max(log_sums)
    greatest = tl.where(greatest == float("-inf"), 0.0, greatest)
    whole = tl.sum(tl.exp2(log_sums - greatest))
    dims = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, num_parts, STEP):
        some = start + tl.arange(0, STEP)
        there = some < num_parts
        weights = tl.exp2(tl.load(log_sums_ptr + first + some, mask=there, other=float("-inf")) - greatest)
        places = partials_ptr + (first + some)[:, None] * HEAD_DIM + dims[None, :]
        results = tl.load(places, mask=there[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
        total += tl.sum(results * weights[:, None], axis=0)
    total = total / tl.where(whole == 0.0, 1.0, whole)
    out_places = token.to(tl.int64) * out_token_stride + head * out_head_stride + dims
    tl.store(out_ptr + out_places, total.to(out_ptr.dtype.element_ty), mask=dims < HEAD_DIM)
