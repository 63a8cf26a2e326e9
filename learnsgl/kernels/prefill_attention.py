"""Attention of prompt chunks on the GPU, over the pages of what came before and of the chunk itself.

`TritonAttention` lists the tiles of a step once with `prefill_tile_list`, and every layer runs `prefill_attention`
on them after its keys and values were stored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from learnsgl.core import Int32Array
from learnsgl.kernels.configs import Tiles
from learnsgl.kernels.launch import Launch, check_rows, power_of_2
from learnsgl.kernels.paged_attention import LOG2_E, attend

TILE_FIELDS = 5
"""first token of the run, its first position, its length, its table row, number of the tile within the run"""


def prefill_tile_list(
    first_tokens: npt.NDArray[np.integer],
    starts: Int32Array,
    lens: Int32Array,
    rows: Int32Array,
    *,
    group_size: int,
    block_m: int,
) -> Int32Array:
    """Cut runs into tiles of `block_m` query rows; a run of n tokens has n * group_size of them for each KV head.

    Those with the longest contexts come first, so that the last to start are short and the chip's end is even.

    Args:
        first_tokens: [n]; where each run begins among the step's tokens.
        starts: int32 [n]; first position of each run.
        lens: int32 [n]; tokens of each run.
        rows: int32 [n]; table row of each run.
        group_size: query heads that share a KV head.
        block_m: query rows of a tile.

    Returns:
        int32 [num_tiles, TILE_FIELDS].
    """
    counts = -(-lens.astype(np.int64) * group_size // block_m)
    runs = np.repeat(np.arange(len(lens)), counts)
    numbers = np.arange(len(runs)) - np.repeat(np.cumsum(counts) - counts, counts)
    reach = starts[runs] + np.minimum(lens[runs], ((numbers + 1) * block_m - 1) // group_size + 1)
    order = np.argsort(-reach, kind="stable")
    runs = runs[order]
    return np.stack((first_tokens[runs], starts[runs], lens[runs], rows[runs], numbers[order]), axis=1).astype(np.int32)


def prefill_attention(
    query: torch.Tensor,
    kv_layer: torch.Tensor,
    page_table: torch.Tensor,
    tile_list: torch.Tensor,
    out: torch.Tensor,
    *,
    page_size: int,
    scale: float,
    tiles: Tiles,
) -> None:
    """Causal grouped-query attention of a ragged batch of chunks, each over its row's pages.

    Fused: page lookups, scores, softmax and the weighted sum; scores never leave the chip. All query heads of one KV
    head share a tile, so that a short chunk fills it, and a key is read once for all of them.

    Args:
        query: [T, H, D], rotated.
        kv_layer: [2, KV, num_slots, D]; the chunk's own keys and values are there already.
        page_table: int32 [num_rows, max_pages].
        tile_list: int32 [num_tiles, TILE_FIELDS], from `prefill_tile_list` with `tiles.block_m`.
        out: [T, H, D]; rows of tokens that are in no tile are left as they are.
        page_size: tokens a page.
        scale: of the scores, above 0; usually D ** -0.5.
        tiles: sizes.

    Raises:
        ValueError: a tensor isn't dense along its last axis.

    Source: FlashAttention-2 (Dao, 2023) over the paged memory of vLLM (Kwon et al., 2023); heads packed into the tile
    as in FlashInfer (Ye et al., 2025).
    """
    prefill_attention_launch(
        query, kv_layer, page_table, tile_list, out, page_size=page_size, scale=scale, tiles=tiles
    ).run()


def prefill_attention_launch(
    query: torch.Tensor,
    kv_layer: torch.Tensor,
    page_table: torch.Tensor,
    tile_list: torch.Tensor,
    out: torch.Tensor,
    *,
    page_size: int,
    scale: float,
    tiles: Tiles,
) -> Launch:
    """The launch of `prefill_attention`."""
    check_rows("query", query)
    check_rows("kv_layer", kv_layer)
    num_heads, head_dim = query.shape[1:]
    num_kv_heads = kv_layer.shape[1]
    args = {
        "query_ptr": query, "out_ptr": out, "key_ptr": kv_layer[0], "value_ptr": kv_layer[1],
        "page_table_ptr": page_table, "tiles_ptr": tile_list, "scale": scale * LOG2_E,
        "query_token_stride": query.stride(0), "query_head_stride": query.stride(1), "out_token_stride": out.stride(0),
        "out_head_stride": out.stride(1), "cache_head_stride": kv_layer.stride(1),
        "cache_slot_stride": kv_layer.stride(2), "page_table_stride": page_table.stride(0),
        "GROUP": num_heads // num_kv_heads, "HEAD_DIM": head_dim, "BLOCK_D": power_of_2(head_dim, at_least=16),
        "BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "PAGE_SIZE": page_size, "FIELDS": TILE_FIELDS,
    }  # fmt: skip
    grid = (tile_list.shape[0], num_kv_heads, 1)
    return Launch(_prefill_attention_kernel, grid, args, tiles.num_warps, tiles.num_stages)


def prefill_attention_bytes(
    starts: Int32Array, lens: Int32Array, num_heads: int, num_kv_heads: int, head_dim: int, itemsize: int
) -> int:
    """Bytes that `prefill_attention` must move: queries in, results out, and each context's keys and values once."""
    own = 2 * int(lens.sum()) * num_heads
    contexts = 2 * int((starts + lens).sum()) * num_kv_heads
    return (own + contexts) * head_dim * itemsize


def prefill_attention_flops(starts: Int32Array, lens: Int32Array, num_heads: int, head_dim: int) -> int:
    """Operations that it must do: two products of D for every pair of a token and a key that it sees."""
    starts, lens = starts.astype(np.int64), lens.astype(np.int64)
    return 4 * num_heads * head_dim * int((starts * lens + lens * (lens + 1) // 2).sum())


@triton.jit(do_not_specialize=["page_table_stride"])
def _prefill_attention_kernel(
    query_ptr, out_ptr, key_ptr, value_ptr, page_table_ptr, tiles_ptr, scale, query_token_stride, query_head_stride,
    out_token_stride, out_head_stride, cache_head_stride, cache_slot_stride, page_table_stride,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PAGE_SIZE: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """One program a tile and KV head. Row r of a run is token r // GROUP, query head r % GROUP of the group."""
    tile_ptr = tiles_ptr + tl.program_id(0) * FIELDS
    kv_head = tl.program_id(1)
    first_token = tl.load(tile_ptr).to(tl.int64)
    run_start = tl.load(tile_ptr + 1)
    run_len = tl.load(tile_ptr + 2)
    pages_ptr = page_table_ptr + tl.load(tile_ptr + 3).to(tl.int64) * page_table_stride
    first_row = tl.load(tile_ptr + 4) * BLOCK_M

    rows = first_row + tl.arange(0, BLOCK_M)
    tokens = rows // GROUP  # within the run
    heads = kv_head * GROUP + rows % GROUP
    dims = tl.arange(0, BLOCK_D)
    inside = (tokens < run_len)[:, None] & (dims < HEAD_DIM)[None, :]
    query_places = (first_token + tokens)[:, None] * query_token_stride + heads[:, None] * query_head_stride
    query = tl.load(query_ptr + query_places + dims[None, :], mask=inside, other=0.0)

    limits = run_start + tl.minimum(tokens, run_len - 1)
    last = run_start + tl.minimum((first_row + BLOCK_M - 1) // GROUP, run_len - 1)
    # up to here every row of the tile sees every key: whole blocks that end before the first row's own position
    seen_by_all = (run_start + first_row // GROUP + 1) // BLOCK_N * BLOCK_N
    key_ptr += kv_head.to(tl.int64) * cache_head_stride
    value_ptr += kv_head.to(tl.int64) * cache_head_stride
    total = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    total, row_max, row_sum = attend(
        total, row_max, row_sum, query, key_ptr, value_ptr, pages_ptr, 0, seen_by_all, limits, last, scale,
        cache_slot_stride, HEAD_DIM, BLOCK_D, BLOCK_N, PAGE_SIZE, MASKED=False,
    )  # fmt: skip
    total, row_max, row_sum = attend(
        total, row_max, row_sum, query, key_ptr, value_ptr, pages_ptr, seen_by_all, last + 1, limits, last, scale,
        cache_slot_stride, HEAD_DIM, BLOCK_D, BLOCK_N, PAGE_SIZE, MASKED=True,
    )  # fmt: skip
    out_places = (first_token + tokens)[:, None] * out_token_stride + heads[:, None] * out_head_stride
    # every row has seen at least the key of its own position (or of the run's last), so no sum is 0
    result = total / row_sum[:, None]
    tl.store(out_ptr + out_places + dims[None, :], result.to(out_ptr.dtype.element_ty), mask=inside)
