"""What FlashInfer's wrappers are told of a step and of the pool, in its own form, and how much room they need.

`FlashInferAttention` calls it; nothing here imports FlashInfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.core import Int32Array

LEAST_WORKSPACE_BYTES = 128 << 20
"""FlashInfer's documentation recommends so much for partial results."""


@dataclass(frozen=True, slots=True)
class PageLists:
    """The contexts of n runs in FlashInfer's form. What is on the host is pinned where the device is a GPU.

    Attributes:
        indptr: int32 [n + 1], host; where each run's pages begin in `indices`.
        indices: int32 [number of pages], device; the pages of the runs behind each other.
        last_page_len: int32 [n], host; tokens in the last page of each run, at least 1.
        context_lens: int32 [n], host.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    last_page_len: torch.Tensor
    context_lens: torch.Tensor


def find_pages(rows: Int32Array, context_lens: Int32Array, page_table: torch.Tensor, *, page_size: int) -> PageLists:
    """The pages of rows up to their context's end: looked up on the device, since only it knows them.

    Nothing here waits for the device.

    Args:
        rows: int32 [n], n at least 1.
        context_lens: int32 [n], at least 1 each.
        page_table: int32 [num_rows, max_pages_per_row], device.
        page_size: tokens a page.
    """
    device = page_table.device
    counts = (-(-context_lens // page_size)).astype(np.int32)
    ends = np.cumsum(counts, dtype=np.int32)
    total = int(ends[-1])
    # a run's j-th page has place `first + j` in the list and `row * max_pages + j` in the flat page table
    shifts = rows.astype(np.int32) * page_table.shape[1] - (ends - counts)
    sent = pinned(np.stack((shifts, counts)), device).to(device, non_blocking=True)
    places = torch.repeat_interleave(sent[0], sent[1], output_size=total)  # without the size it asks the device
    places += torch.arange(total, dtype=torch.int32, device=device)
    return PageLists(
        indptr=pinned(np.concatenate(([0], ends)).astype(np.int32), device),
        indices=page_table.view(-1).index_select(0, places),
        last_page_len=pinned((context_lens - (counts - 1) * page_size).astype(np.int32), device),
        context_lens=pinned(context_lens.astype(np.int32), device),
    )


def pinned(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array on the host, where a copy to the device needn't wait."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def as_pages(layer: torch.Tensor, page_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a layer of the pool as FlashInfer wants them: views, nothing is copied.

    Its layout `HND` is [pages, KV, page_size, D], and its kernels take the strides of the first three axes from the
    tensors, so the pool's heads may lie anywhere.

    Args:
        layer: [2, KV, num_pages * page_size, D].
        page_size: tokens a page.

    Returns:
        Keys and values, [num_pages, KV, page_size, D] each.
    """
    _, num_kv_heads, _, head_dim = layer.shape
    keys, values = layer.view(2, num_kv_heads, -1, page_size, head_dim).transpose(1, 2).unbind(0)
    return keys, values


def workspace_bytes(num_heads: int, num_kv_heads: int, head_dim: int, *, num_rows: int, num_sms: int) -> int:
    """The most that FlashInfer's planner asks for, for the fp32 partial results of contexts that it splits.

    It splits while the tiles of all heads are fewer than two programs a multiprocessor, and keeps room for all rows of
    a tile. In a CUDA graph it keeps room for each of the graph's rows at least.

    Args:
        num_heads: query heads.
        num_kv_heads: KV heads.
        head_dim: features of a head.
        num_rows: most rows of a graph.
        num_sms: multiprocessors of the GPU.

    Source: `PrefillSplitQOKVIndptr` and `PrefillPlan` in FlashInfer 0.5.3.
    """
    group = num_heads // num_kv_heads
    most_split = 2 * num_sms // num_kv_heads
    prefill_tile = 128 if head_dim < 256 else 64
    decode_tile = 16 if group <= 16 else 64 if group <= 64 else prefill_tile
    graph_tiles = max(most_split, -(-num_rows * group // decode_tile) + num_rows - 1)
    num_partials = num_heads * max(most_split * prefill_tile, graph_tiles * decode_tile)
    aligned = 64  # each of the two parts begins at a multiple of 16
    return max(LEAST_WORKSPACE_BYTES, num_partials * (head_dim + 1) * 4 + aligned)
