"""Attention in plain PyTorch, for any device: the reference, and what the CPU engine runs.

Runs of one token (decoding) are attended in a few padded groups, one `scaled_dot_product_attention` each, which read
dense copies of their contexts, or else gather them. Longer runs (chunks of prompts) are attended one by one, since
their work is large enough to fill the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from learnsgl.attention.backend import ForwardBatch
from learnsgl.attention.dense_contexts import DenseContexts, StripPlan
from learnsgl.core import Int32Array
from learnsgl.engine.kv_pool import KVPool

GROUP_FILL = 0.75
"""A context shorter than this share of its group's longest may open a new group ..."""

GROUP_SAVING_TOKENS = 256
"""... if that saves at least so many tokens of padding, about what the extra operators cost."""

Slots = torch.Tensor | slice
"""Where a context lies in the pool: int64 slots, or a slice where they follow each other, which copies nothing."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Runs of one token that are attended together.

    Attributes:
        tokens: int64 [B]; which tokens of the step; `None` when they are all, in order.
        num_rows: B.
        slots: [B * L], row after row. What is beyond a row's context repeats its last slot and is masked.
        mask: [B, 1, 1, L], added to the scores; `None` when all contexts are equally long.
    """

    tokens: torch.Tensor | None
    num_rows: int
    slots: Slots
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class PrefillRun:
    """One run of several tokens.

    Attributes:
        tokens: which tokens of the step.
        slots: [L], its context with the run itself; `None` when the run is all of it.
        mask: [T, L], added to the scores; `None` when the run is all of its context: then it is plainly causal.
    """

    tokens: slice
    slots: Slots | None
    mask: torch.Tensor | None


class TorchAttention:
    """The plain PyTorch backend (`AttentionBackend`)."""

    def __init__(self, pool: KVPool, page_table: torch.Tensor, *, num_heads: int, max_dense_bytes: int) -> None:
        """Attend to what `pool` holds.

        Args:
            pool: keys and values.
            page_table: int32 [num_rows, max_pages_per_row]; the engine keeps it up to date.
            num_heads: query heads.
            max_dense_bytes: most that dense copies of contexts may take; with 0 there are none.
        """
        self._pool = pool
        self._page_table = page_table
        self._num_kv_heads = pool.num_kv_heads
        self._group_size = num_heads // pool.num_kv_heads  # query heads that share one KV head
        self._dtype = pool.layers[0].dtype
        self._device = page_table.device
        self._dense = DenseContexts(pool, max_bytes=max_dense_bytes)
        self._strip_plan: StripPlan | None = None
        self._new_slots = torch.empty(0, dtype=torch.int64)
        self._decode_groups: list[DecodeGroup] = []
        self._prefill_runs: list[PrefillRun] = []

    def plan(self, batch: ForwardBatch) -> None:
        """See `AttentionBackend.plan`."""
        self._new_slots = self._slots(batch.token_rows, batch.positions)
        first_tokens = np.cumsum(batch.lens) - batch.lens
        decoding = batch.lens == 1
        self._prefill_runs = [
            self._plan_prefill(int(batch.rows[run]), int(batch.starts[run]), int(batch.lens[run]), int(first))
            for run, first in zip(np.flatnonzero(~decoding), first_tokens[~decoding], strict=True)
        ]
        tokens = first_tokens[decoding] if self._prefill_runs else None
        self._strip_plan, self._decode_groups = None, []
        if decoding.any():
            self._plan_decodes(batch.rows[decoding], batch.tenancies[decoding], batch.starts[decoding], tokens)

    def forward(self, layer: int, query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
        """See `AttentionBackend.forward`."""
        kept = self._pool.layers[layer]
        new = key_value.view(-1, 2, self._num_kv_heads, key_value.shape[-1]).permute(1, 2, 0, 3)  # [2, KV, T, D]
        kept.index_copy_(2, self._new_slots, new)
        if len(self._decode_groups) == 1 and self._decode_groups[0].tokens is None:
            return self._decode(self._decode_groups[0], query, kept)
        if self._strip_plan is not None and self._strip_plan.tokens is None:
            return self._dense.forward(self._strip_plan, layer, query, new)
        out = query.new_empty(query.shape[0], query.shape[1] * query.shape[2])
        for run in self._prefill_runs:
            out[run.tokens] = self._prefill(run, query[run.tokens], new, kept)
        if self._strip_plan is not None and self._strip_plan.tokens is not None:
            out.index_copy_(0, self._strip_plan.tokens, self._dense.forward(self._strip_plan, layer, query, new))
        for group in self._decode_groups:
            assert group.tokens is not None
            out.index_copy_(0, group.tokens, self._decode(group, query.index_select(0, group.tokens), kept))
        return out

    def _slots(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Slots of positions in rows, int64, in the shape that the two broadcast to."""
        page_size = self._pool.page_size
        if page_size == 1:
            return self._page_table[rows, positions].long()
        pages = self._page_table[rows, positions // page_size].long()
        return pages * page_size + positions % page_size

    def _context(self, row: int, length: int) -> Slots:
        """Slots of the first `length` positions of a row."""
        rows = torch.tensor(row, device=self._device)
        slots = self._slots(rows, torch.arange(length, device=self._device))
        # Looking at the slots is free on the CPU; on a GPU it would wait for the device.
        if self._device.type == "cpu" and bool((slots.diff() == 1).all()):
            first = int(slots[0])
            return slice(first, first + length)
        return slots

    def _plan_prefill(self, row: int, start: int, length: int, first_token: int) -> PrefillRun:
        tokens = slice(first_token, first_token + length)
        if start == 0:
            return PrefillRun(tokens, slots=None, mask=None)
        mask = torch.full((length, start + length), -torch.inf, dtype=self._dtype, device=self._device)
        return PrefillRun(tokens, self._context(row, start + length), mask.triu(start + 1))

    def _plan_decodes(
        self,
        rows: Int32Array,
        tenancies: npt.NDArray[np.int64],
        starts: Int32Array,
        tokens: npt.NDArray[np.int64] | None,
    ) -> None:
        """Runs of one token; `tokens` says which of the step's, `None` that they are all."""
        if len(rows) == 1:
            context = self._context(int(rows[0]), int(starts[0]) + 1)
            if isinstance(context, slice):  # dense where it is
                self._decode_groups = [DecodeGroup(self._tokens(tokens), 1, context, None)]
                return
        self._strip_plan = self._dense.plan(rows, tenancies, starts, tokens, self._find_slots)
        if self._strip_plan is None:
            groups = group_by_length(starts + 1)
            alone = tokens is None and len(groups) == 1
            tokens = np.arange(len(rows)) if tokens is None else tokens
            self._decode_groups = [
                self._plan_decode(rows[group], starts[group] + 1, None if alone else tokens[group]) for group in groups
            ]

    def _find_slots(self, rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> torch.Tensor:
        return self._slots(torch.from_numpy(rows).to(self._device), torch.from_numpy(positions).to(self._device))

    def _tokens(self, tokens: npt.NDArray[np.int64] | None) -> torch.Tensor | None:
        return None if tokens is None else torch.from_numpy(tokens).to(self._device)

    def _plan_decode(
        self, rows: Int32Array, context_lens: Int32Array, tokens: npt.NDArray[np.int64] | None
    ) -> DecodeGroup:
        if len(rows) == 1:
            return DecodeGroup(self._tokens(tokens), 1, self._context(int(rows[0]), int(context_lens[0])), None)
        longest = int(context_lens.max())
        lens = torch.from_numpy(context_lens.astype(np.int64)).to(self._device).unsqueeze(1)  # [B, 1]
        row_indices = torch.from_numpy(rows.astype(np.int64)).to(self._device).unsqueeze(1)
        positions = torch.arange(longest, device=self._device)  # [L]
        slots = self._slots(row_indices, torch.minimum(positions, lens - 1)).view(-1)
        mask = None
        if int(context_lens.min()) < longest:
            mask = torch.zeros(len(rows), longest, dtype=self._dtype, device=self._device)
            mask = mask.masked_fill_(positions >= lens, -torch.inf)[:, None, None, :]
        return DecodeGroup(self._tokens(tokens), len(rows), slots, mask)

    def _decode(self, group: DecodeGroup, query: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """One token a row: [B, H, D] to [B, H * D].

        The G query heads that share a KV head see the same context, so they stand where a prompt's tokens would:
        no key or value is repeated.
        """
        num_rows, _, head_dim = query.shape
        context = _read(kept, group.slots).view(2, self._num_kv_heads, num_rows, -1, head_dim)
        keys, values = context.transpose(1, 2).unbind(0)  # [B, KV, L, D] each
        grouped = query.reshape(num_rows, self._num_kv_heads, self._group_size, head_dim)
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=group.mask).reshape(num_rows, -1)

    def _prefill(self, run: PrefillRun, query: torch.Tensor, new: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """One run of several tokens: [T, H, D] to [T, H * D]."""
        num_tokens, _, head_dim = query.shape
        context = new[:, :, run.tokens] if run.slots is None else _read(kept, run.slots)
        # KV heads stand where a batch would, and the query heads of each are its heads: keys are shared by stride
        keys, values = context.unsqueeze(2).expand(-1, -1, self._group_size, -1, -1).unbind(0)  # [KV, G, L, D] each
        grouped = query.reshape(num_tokens, self._num_kv_heads, self._group_size, head_dim).permute(1, 2, 0, 3)
        attended = F.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=run.mask, is_causal=run.mask is None
        )  # [KV, G, T, D]
        return attended.permute(2, 0, 1, 3).reshape(num_tokens, -1)


def _read(kept: torch.Tensor, slots: Slots) -> torch.Tensor:
    """Keys and values at some slots: [2, KV, number of slots, D]."""
    return kept[:, :, slots] if isinstance(slots, slice) else kept.index_select(2, slots)


def group_by_length(context_lens: np.ndarray) -> list[np.ndarray]:
    """Share decode runs out into groups, so that padding to the longest of a group stays small.

    Args:
        context_lens: int32 [n].

    Returns:
        Indices into `context_lens`, group after group. A single group is in order; several go from long to short.
    """
    if len(context_lens) == 0:
        return []
    order = np.argsort(-context_lens, kind="stable")
    cuts, longest = [], int(context_lens[order[0]])
    for i, length in enumerate(context_lens[order].tolist()):
        saving = (longest - length) * (len(order) - i)
        if length < GROUP_FILL * longest and saving >= GROUP_SAVING_TOKENS:
            cuts.append(i)
            longest = length
    return np.split(order, cuts) if cuts else [np.arange(len(order))]
