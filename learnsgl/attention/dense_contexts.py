"""Contexts of the rows that decode, kept dense beside the pages, so that a step needn't gather them from there.

Pages are handed out token by token, so those of several rows lie mixed in memory, and gathering the contexts of a
batch costs more than attending to them. Here each row that decodes has a strip of its own, to which a step adds one
token. `TorchAttention` plans and reads the strips; what they hold is a copy, and may be dropped at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from learnsgl.core import Int32Array
from learnsgl.engine.kv_pool import KVPool

STRIP_TOKENS = 256
"""Strips grow by so many tokens at a time; then every context is gathered anew."""

GROUP_PADDING_TOKENS = 256
"""So many tokens of padding cost about as much as the operators of one more group."""

Int64Array = npt.NDArray[np.int64]
FindSlots = Callable[[Int64Array, Int64Array], torch.Tensor]
"""Rows [m], positions [m] -> their slots in the pool, int64 [m]."""


@dataclass(frozen=True, slots=True)
class StripGroup:
    """Strips that are attended to together.

    Attributes:
        strips: which ones.
        length: of the longest context among them.
        mask: [B, 1, 1, length], added to the scores; `None` when all contexts are equally long.
    """

    strips: slice
    length: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StripPlan:
    """What one step does with the strips. The n runs of one token use the first n strips, in another order perhaps.

    Attributes:
        tokens: int64 [n]; the step's token that belongs to each strip; `None` when they are all there are, in order.
        new_slots: int64 [n]; where in the strips the step's own keys and values go.
        missing: int64 [m] twice; slots of the pool that are copied first, and where they go.
        groups: share out the strips.
    """

    tokens: torch.Tensor | None
    new_slots: torch.Tensor
    missing: tuple[torch.Tensor, torch.Tensor] | None
    groups: list[StripGroup]


class DenseContexts:
    """The strips, laid out like the pool: for each layer [2, KV, num_strips * strip_len, D]."""

    def __init__(self, pool: KVPool, *, max_bytes: int) -> None:
        """Start without strips.

        Args:
            pool: where keys and values are kept for good.
            max_bytes: the strips never take more than this; 0 is never enough for any.
        """
        self._pool = pool
        self._max_tokens = max_bytes // pool.token_bytes
        self._layers: list[torch.Tensor] = []
        self._num_strips = 0
        self._strip_len = 0
        self._strip_of: dict[tuple[int, int], int] = {}  # by row and tenancy
        self._filled = np.zeros(0, dtype=np.int64)  # tokens that each strip holds

    def plan(
        self, rows: Int32Array, tenancies: Int64Array, starts: Int32Array, tokens: Int64Array | None, find: FindSlots
    ) -> StripPlan | None:
        """Give each run its strip, and say what is to be copied.

        Args:
            rows: int32 [n]; rows that decode, at least one.
            tenancies: int64 [n]; a row of another tenancy holds another sequence.
            starts: int32 [n]; the position of each row's token.
            tokens: int64 [n]; which tokens of the step; `None` when they are all, in order.
            find: tells where a token lies in the pool.

        Returns:
            `None` when the strips would take too much memory.
        """
        if not self._reserve(len(rows), int(starts.max()) + 1):
            return None
        strips = self._assign(rows, tenancies)
        missing = self._missing(rows.astype(np.int64), strips, starts.astype(np.int64), find)
        self._filled[strips] = starts + 1
        order = np.argsort(strips)  # strips are a permutation of the first n numbers
        in_order = bool((order == np.arange(len(order))).all())
        if tokens is not None or not in_order:
            tokens = order if tokens is None else tokens[order]
        lens = starts[order] + 1
        return StripPlan(
            tokens=None if tokens is None else torch.from_numpy(tokens),
            new_slots=torch.from_numpy((strips * self._strip_len + starts)[order]),
            missing=missing,
            groups=[self._group(group, lens[group]) for group in split_strips(lens)],
        )

    def forward(self, plan: StripPlan, layer: int, query: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Bring the strips of one layer up to date, and attend to them.

        Args:
            plan: of this step.
            layer: number of the layer.
            query: [T, H, D]; all tokens of the step.
            new: [2, KV, T, D]; their keys and values.

        Returns:
            [n, H * D], for `plan.tokens`.
        """
        kept = self._layers[layer]
        if plan.missing is not None:
            sources, destinations = plan.missing
            kept.index_copy_(2, destinations, self._pool.layers[layer].index_select(2, sources))
        if plan.tokens is not None:
            query, new = query.index_select(0, plan.tokens), new.index_select(2, plan.tokens)
        kept.index_copy_(2, plan.new_slots, new)
        num_kv_heads, head_dim = new.shape[1], new.shape[3]
        # the query heads that share a KV head stand where a prompt's tokens would: no key is repeated
        grouped = query.reshape(query.shape[0], num_kv_heads, -1, head_dim)  # [n, KV, G, D]
        contexts = kept.view(2, num_kv_heads, self._num_strips, self._strip_len, head_dim).transpose(1, 2)
        attended = []
        for group in plan.groups:
            keys, values = contexts[:, group.strips, :, : group.length].unbind(0)  # [B, KV, L, D] each
            attended.append(
                F.scaled_dot_product_attention(grouped[group.strips], keys, values, attn_mask=group.mask).flatten(1)
            )
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def _reserve(self, num_strips: int, length: int) -> bool:
        """Make room for so many strips of such a length; returns whether there is."""
        if num_strips <= self._num_strips and length <= self._strip_len:
            return True
        strip_len = -(-length // STRIP_TOKENS) * STRIP_TOKENS
        with_spare = 1 << (num_strips - 1).bit_length()
        self._layers, self._strip_of = [], {}  # the old ones are given back before new ones are taken
        self._num_strips = self._strip_len = 0
        for wanted in (with_spare, num_strips):
            if wanted * strip_len <= self._max_tokens:
                self._num_strips, self._strip_len = wanted, strip_len
                self._filled = np.zeros(wanted, dtype=np.int64)
                like = self._pool.layers[0]
                shape = (2, like.shape[1], wanted * strip_len, like.shape[3])
                # zeros, since what is masked is still multiplied, by 0: it must be a number
                self._layers = [like.new_zeros(shape) for _ in self._pool.layers]
                return True
        return False

    def _assign(self, rows: Int32Array, tenancies: Int64Array) -> Int64Array:
        """Strips of the rows: those they have, if these are among the first n, or else free ones, which are empty."""
        keys = list(zip(rows.tolist(), tenancies.tolist(), strict=True))
        held = {key: self._strip_of[key] for key in keys if self._strip_of.get(key, len(keys)) < len(keys)}
        taken = set(held.values())
        free = (strip for strip in range(len(keys)) if strip not in taken)
        self._strip_of = {key: held[key] if key in held else next(free) for key in keys}
        for key, strip in self._strip_of.items():
            if key not in held:
                self._filled[strip] = 0
        return np.fromiter(self._strip_of.values(), dtype=np.int64, count=len(keys))

    def _missing(
        self, rows: Int64Array, strips: Int64Array, starts: Int64Array, find: FindSlots
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What lies between the end of a strip and the token of this step."""
        counts = np.maximum(starts - self._filled[strips], 0)
        total = int(counts.sum())
        if not total:
            return None
        ends = np.cumsum(counts)
        positions = np.arange(total) + np.repeat(starts - ends, counts)
        destinations = np.repeat(strips * self._strip_len, counts) + positions
        return find(np.repeat(rows, counts), positions), torch.from_numpy(destinations)

    def _group(self, strips: slice, lens: npt.NDArray[np.integer]) -> StripGroup:
        longest = int(lens.max())
        if int(lens.min()) == longest:
            return StripGroup(strips, longest, None)
        beyond = torch.arange(longest) >= torch.from_numpy(lens.astype(np.int64)).unsqueeze(1)
        mask = torch.zeros(len(lens), longest, dtype=self._pool.layers[0].dtype).masked_fill_(beyond, -torch.inf)
        return StripGroup(strips, longest, mask[:, None, None, :])


def split_strips(lens: npt.NDArray[np.integer]) -> list[slice]:
    """Share out neighbouring strips into groups, so that padding to the longest of a group stays small.

    Args:
        lens: [n], n at least 1; length of each context.

    Returns:
        Slices that cover all strips in order. A strip joins the group before it unless that adds more than
        `GROUP_PADDING_TOKENS` of padding.
    """
    cuts, longest = [0], int(lens[0])
    for strip, length in enumerate(lens.tolist()):
        padding = longest - length if length <= longest else (length - longest) * (strip - cuts[-1])
        longest = max(longest, length)
        if padding > GROUP_PADDING_TOKENS:
            cuts.append(strip)
            longest = length
    return [slice(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(lens)], strict=True)]
