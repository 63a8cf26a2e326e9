"""Where each token of a step is kept and how long its context is, found on the device in one launch.

`TritonAttention.plan` runs it once a step, so that planning a decode step copies nothing from the host. It writes
into buffers whose addresses stay, which the kernels of a CUDA graph read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from learnsgl.kernels.launch import Launch
from learnsgl.kernels.paged_attention import slots_of
from learnsgl.kernels.rotary_store import NO_SLOT

_BLOCK = 128


def find_slots(
    token_rows: torch.Tensor,
    positions: torch.Tensor,
    page_table: torch.Tensor,
    slots: torch.Tensor,
    rows: torch.Tensor,
    context_lens: torch.Tensor,
    kept_positions: torch.Tensor,
    *,
    page_size: int,
    num_padded: int,
) -> None:
    """Look up the slots of T tokens, and pad what is known of them to `num_padded` tokens.

    Args:
        token_rows: int64 [T]; table row of each token.
        positions: int64 [T].
        page_table: int32 [num_rows, max_pages].
        slots: int64 [at least num_padded], written; `NO_SLOT` for padding.
        rows: int32, likewise; 0 for padding.
        context_lens: int32, likewise; position + 1, and 0 for padding.
        kept_positions: int64, likewise; 0 for padding.
        page_size: tokens a page.
        num_padded: at least T.
    """
    find_slots_launch(
        token_rows, positions, page_table, slots, rows, context_lens, kept_positions, page_size=page_size,
        num_padded=num_padded,
    ).run()  # fmt: skip


def find_slots_launch(
    token_rows: torch.Tensor,
    positions: torch.Tensor,
    page_table: torch.Tensor,
    slots: torch.Tensor,
    rows: torch.Tensor,
    context_lens: torch.Tensor,
    kept_positions: torch.Tensor,
    *,
    page_size: int,
    num_padded: int,
) -> Launch:
    """The launch of `find_slots`."""
    args = {
        "token_rows_ptr": token_rows, "positions_ptr": positions, "page_table_ptr": page_table, "slots_ptr": slots,
        "rows_ptr": rows, "context_lens_ptr": context_lens, "kept_positions_ptr": kept_positions,
        "num_tokens": token_rows.shape[0], "num_padded": num_padded, "page_table_stride": page_table.stride(0),
        "PAGE_SIZE": page_size, "BLOCK": _BLOCK, "PADDING": NO_SLOT,
    }  # fmt: skip
    return Launch(_find_slots_kernel, (triton.cdiv(num_padded, _BLOCK), 1, 1), args, num_warps=4)


def find_slots_reference(
    token_rows: torch.Tensor, positions: torch.Tensor, page_table: torch.Tensor, *, page_size: int
) -> torch.Tensor:
    """The slots of T tokens in plain torch: int64 [T]."""
    return page_table[token_rows, positions // page_size].long() * page_size + positions % page_size


def find_slots_bytes(num_tokens: int) -> int:
    """Bytes that `find_slots` must move: row, position and page of each token in, four numbers out."""
    return num_tokens * (8 + 8 + 4 + 8 + 4 + 4 + 8)


@triton.jit(do_not_specialize=["num_tokens", "num_padded", "page_table_stride"])
def _find_slots_kernel(
    token_rows_ptr, positions_ptr, page_table_ptr, slots_ptr, rows_ptr, context_lens_ptr, kept_positions_ptr,
    num_tokens, num_padded, page_table_stride, PAGE_SIZE: tl.constexpr, BLOCK: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """One program for a block of tokens."""
    tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < num_padded
    is_real = tokens < num_tokens
    rows = tl.load(token_rows_ptr + tokens, mask=is_real, other=0)
    positions = tl.load(positions_ptr + tokens, mask=is_real, other=0)
    # padding looks at the first page of row 0, which is there, and doesn't use it
    slots = slots_of(page_table_ptr + rows * page_table_stride, positions, PAGE_SIZE)
    tl.store(slots_ptr + tokens, tl.where(is_real, slots, PADDING), mask=inside)
    tl.store(rows_ptr + tokens, rows.to(tl.int32), mask=inside)
    tl.store(context_lens_ptr + tokens, tl.where(is_real, positions + 1, 0).to(tl.int32), mask=inside)
    tl.store(kept_positions_ptr + tokens, positions, mask=inside)
