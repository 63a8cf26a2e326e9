"""What the two attention kernels share: where a token lies in the pages, one walk over keys, and the torch reference.

`prefill_attention.py` and `decode_attention.py` differ in which queries make a tile and which keys it walks over; the
arithmetic of the walk is here, once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
"""Softmax is computed with powers of two, which is what the hardware has; scores are scaled by this beforehand."""


@triton.jit
def slots_of(pages_ptr, positions, PAGE_SIZE: tl.constexpr):
    """Slots, int64, of positions in a row whose pages are listed from `pages_ptr` on."""
    if PAGE_SIZE == 1:
        return tl.load(pages_ptr + positions).to(tl.int64)
    pages = tl.load(pages_ptr + positions // PAGE_SIZE).to(tl.int64)
    return pages * PAGE_SIZE + positions % PAGE_SIZE


@triton.jit
def attend(
    total, row_max, row_sum, query, key_ptr, value_ptr, pages_ptr, begin, end, limits, last, scale, slot_stride,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, PAGE_SIZE: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Walk over the keys at positions `begin` to `end`, and bring the running softmax of a tile up to date.

    Source: online softmax (Milakov and Gimelshein, 2018), tiled as in FlashAttention-2 (Dao, 2023), section 3.1.

    Args:
        total: fp32 [M, BLOCK_D]; sum of values weighted by 2 ** (score - row_max).
        row_max: fp32 [M]; greatest score so far, minus infinity where a row has seen no key.
        row_sum: fp32 [M]; sum of the weights.
        query: [M, BLOCK_D], 0 beyond HEAD_DIM.
        key_ptr, value_ptr: of one head of one layer.
        pages_ptr: the row's pages.
        begin: a multiple of BLOCK_N away from where the first walk began.
        end: first position that isn't walked over.
        limits: int32 [M]; greatest position that each query row may see. Read only if MASKED.
        last: greatest position that may be read; what lies beyond is read there instead, and masked. Read only if
            MASKED; without, `end - begin` is a multiple of BLOCK_N and every row sees every key.
        scale: of the scores, times `LOG2_E`; above 0.
        slot_stride: elements between a head's slots.
    """
    dims = tl.arange(0, BLOCK_D)
    for start in range(begin, end, BLOCK_N):
        positions = start + tl.arange(0, BLOCK_N)
        if MASKED:
            slots = slots_of(pages_ptr, tl.minimum(positions, last), PAGE_SIZE)
        else:
            slots = slots_of(pages_ptr, positions, PAGE_SIZE)
        places = slots[:, None] * slot_stride + dims[None, :]
        if HEAD_DIM == BLOCK_D:
            keys = tl.load(key_ptr + places)
        else:
            keys = tl.load(key_ptr + places, mask=(dims < HEAD_DIM)[None, :], other=0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee")  # [M, BLOCK_N]
        if MASKED:
            scores = tl.where(positions[None, :] <= limits[:, None], scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1) * scale)
        # A row that has seen no key yet has minus infinity here, and that minus itself is not a number.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max) if MASKED else new_max
        weights = tl.exp2(scores * scale - shift[:, None])
        shrink = tl.exp2(row_max - shift)
        row_sum = row_sum * shrink + tl.sum(weights, axis=1)
        if HEAD_DIM == BLOCK_D:
            values = tl.load(value_ptr + places)
        else:
            values = tl.load(value_ptr + places, mask=(dims < HEAD_DIM)[None, :], other=0.0)
        total = tl.dot(weights.to(values.dtype), values, total * shrink[:, None], input_precision="ieee")
        row_max = new_max
    return total, row_max, row_sum


def paged_attention_reference(
    query: torch.Tensor,
    kv_layer: torch.Tensor,
    page_table: torch.Tensor,
    *,
    page_size: int,
    rows: Sequence[int],
    starts: Sequence[int],
    lens: Sequence[int],
    scale: float,
) -> torch.Tensor:
    """Causal attention of runs of tokens over what their rows hold, in plain torch and fp32.

    Args:
        query: [T, H, D]; the runs' tokens, run after run.
        kv_layer: [2, KV, num_slots, D]; the runs' own keys and values are there already.
        page_table: int32 [num_rows, max_pages].
        page_size: tokens a page.
        rows: table row of each run.
        starts: first position of each run.
        lens: tokens of each run.
        scale: of the scores.

    Returns:
        fp32 [T, H, D].
    """
    num_heads, num_kv_heads = query.shape[1], kv_layer.shape[1]
    out, first = [], 0
    for row, start, length in zip(rows, starts, lens, strict=True):
        positions = torch.arange(start + length, device=query.device)
        slots = page_table[row, positions // page_size].long() * page_size + positions % page_size
        keys, values = kv_layer[:, :, slots].float().repeat_interleave(num_heads // num_kv_heads, dim=1)  # [H, L, D]
        scores = torch.einsum("thd,hld->htl", query[first : first + length].float(), keys) * scale
        hidden = positions > (start + torch.arange(length, device=query.device)).unsqueeze(1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        out.append(torch.einsum("htl,hld->thd", weights, values))
        first += length
    return torch.cat(out) if out else query.float()
