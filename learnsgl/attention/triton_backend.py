"""Attention with the Triton kernels: the GPU engine's own backend.

The engine plans each step with `plan`, or a padded decode step of a CUDA graph with `plan_padded`; neither waits for
the device. Every layer then calls `forward` with heads that the model has rotated, or `rotate_and_attend` without.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.core import Int32Array
from learnsgl.engine.kv_pool import KVPool
from learnsgl.errors import EngineError
from learnsgl.kernels.configs import PROGRAMS_PER_SM, choose_num_splits, decode_tiles, prefill_tiles, read_traits
from learnsgl.kernels.decode_attention import DecodeTokens, SplitBuffers, decode_attention
from learnsgl.kernels.find_slots import find_slots
from learnsgl.kernels.own_tokens import OwnTokens
from learnsgl.kernels.prefill_attention import TILE_FIELDS, prefill_attention, prefill_tile_list
from learnsgl.kernels.rotary_store import QKNorm, rotate_and_store, store_kv

_ALIGNED_INTS = 4
"""What is uploaded together begins at multiples of 16 bytes, as kernels assume of their arguments."""


class TritonAttention:
    """The Triton backend (`AttentionBackend`).

    A step's longer runs go through the prefill kernel and its runs of one token through the decode kernel. Their tiles
    differ, 64 to 128 query rows against 16, and only the latter splits a single token's long context over the chip.

    What layers read of a plan lies in buffers that are made once, so a captured graph finds it at the same addresses.
    """

    def __init__(
        self, pool: KVPool, page_table: torch.Tensor, *, num_heads: int, max_tokens: int, max_context_len: int
    ) -> None:
        """Attend to what `pool` holds.

        Args:
            pool: keys and values.
            page_table: int32 [num_rows, max_pages_per_row]; the engine keeps it up to date.
            num_heads: query heads, a multiple of the pool's KV heads.
            max_tokens: most tokens of one step, padding included.
            max_context_len: most tokens of one row.
        """
        _, num_kv_heads, _, head_dim = pool.layers[0].shape
        dtype, device = pool.layers[0].dtype, page_table.device
        traits = read_traits(device)
        self._pool = pool
        self._page_table = page_table
        self._num_heads, self._num_kv_heads = num_heads, num_kv_heads
        self._group_size = num_heads // num_kv_heads
        self._max_context_len = max_context_len
        self._num_sms = traits.num_sms
        self._scale = head_dim**-0.5
        self._prefill_tiles = prefill_tiles(head_dim, dtype.itemsize, traits)
        self._decode_tiles = decode_tiles(head_dim, self._group_size, dtype.itemsize, traits)
        self._slots = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self._positions = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self._rows = torch.zeros(max_tokens, dtype=torch.int32, device=device)
        self._context_lens = torch.zeros(max_tokens, dtype=torch.int32, device=device)
        # `choose_num_splits` gives less than twice the programs that are wanted, each with the heads of a group
        num_parts = 2 * PROGRAMS_PER_SM * traits.num_sms * self._group_size
        self._split_buffers = SplitBuffers(
            torch.zeros(num_parts * head_dim, dtype=torch.float32, device=device),
            torch.zeros(num_parts, dtype=torch.float32, device=device),
        )
        self._tile_list: torch.Tensor | None = None
        self._decode = DecodeTokens(self._rows, self._context_lens, None, 0)
        self._num_splits = 1

    @property
    def workspace_bytes(self) -> int:
        """Bytes of the buffers that are made once."""
        buffers = (self._slots, self._positions, self._rows, self._context_lens)
        return sum(buffer.nbytes for buffer in (*buffers, self._split_buffers.partials, self._split_buffers.log_sums))

    def plan(self, batch: ForwardBatch) -> None:
        """See `AttentionBackend.plan`. A step in which all rows decode copies nothing to the device.

        Raises:
            EngineError: the step has more tokens than there are buffers for.
        """
        self._find_slots(batch.token_rows, batch.positions, len(batch.token_rows))
        decoding = batch.lens == 1
        tokens, self._tile_list = None, None
        if not decoding.all():
            tokens, self._tile_list = self._upload_plan(batch, decoding)
        num_decoding = int(decoding.sum())
        self._decode = DecodeTokens(self._rows, self._context_lens, tokens, num_decoding)
        if num_decoding:
            longest = int(batch.starts[decoding].max()) + 1
            self._num_splits = choose_num_splits(num_decoding, self._num_kv_heads, longest, self._num_sms)

    def plan_padded(self, batch: ForwardBatch, num_padded: int) -> None:
        """Plan a step in which all rows decode, padded to the size of a CUDA graph.

        Call it before the capture of a graph, and before each of its replays: it is a launch of its own, outside the
        graph, and what it finds is read by the kernels within. Everything that a capture fixes (grids, splits,
        addresses) follows from `num_padded` alone. Of padding nothing is stored, and its results are 0.

        Args:
            batch: n tokens; none at all for a capture.
            num_padded: tokens of the graph, at least n.

        Raises:
            EngineError: there are fewer buffers than `num_padded`, or fewer tokens in the graph than n.
        """
        if len(batch.token_rows) > num_padded:
            raise EngineError(f"{len(batch.token_rows)} tokens don't fit a graph of {num_padded}; take a larger one")
        self._find_slots(batch.token_rows, batch.positions, num_padded)
        self._tile_list = None
        self._decode = DecodeTokens(self._rows, self._context_lens, None, num_padded)
        self._num_splits = choose_num_splits(num_padded, self._num_kv_heads, self._max_context_len, self._num_sms)

    def forward(self, layer: int, query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
        """See `AttentionBackend.forward`."""
        store_kv(key_value, self._slots, self._pool.layers[layer])
        return self._attend(layer, query)

    def rotate_and_attend(
        self, layer: int, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, norm: QKNorm | None = None
    ) -> torch.Tensor:
        """`forward` for heads that aren't rotated yet: norms, rotation and the store are one launch, or none.

        Where all rows decode, the launch of attention does them too.

        Args:
            layer: number of the layer, from 0.
            qkv: [T, H + 2 KV, D]; the query heads may be changed in place.
            cos: [P, D / 2], of every position there can be.
            sin: likewise, not negated.
            norm: per-head norms of queries and keys, for models that have them.

        Returns:
            [T, H * D].
        """
        if self._tile_list is None:  # all rows decode, and need nothing before that launch
            own = OwnTokens(self._slots, cos, sin, norm)
            out = qkv.new_empty(len(qkv), self._num_heads, qkv.shape[2])
            self._decode_into(layer, qkv, out, own)
            return out.flatten(1)
        rotate_and_store(
            qkv, cos, sin, self._positions, self._slots, self._pool.layers[layer], num_heads=self._num_heads, norm=norm
        )
        return self._attend(layer, qkv[:, : self._num_heads])

    def _attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """[T, H, D] to [T, H * D], once the step's own keys and values are in their pages."""
        kept, page_size = self._pool.layers[layer], self._pool.page_size
        out = query.new_empty(query.shape)
        if self._tile_list is not None:
            prefill_attention(
                query, kept, self._page_table, self._tile_list, out, page_size=page_size, scale=self._scale,
                tiles=self._prefill_tiles,
            )  # fmt: skip
        self._decode_into(layer, query, out, None)
        return out.flatten(1)

    def _decode_into(self, layer: int, query: torch.Tensor, out: torch.Tensor, own: OwnTokens | None) -> None:
        decode_attention(
            query, self._pool.layers[layer], self._page_table, self._decode, out, page_size=self._pool.page_size,
            scale=self._scale, tiles=self._decode_tiles, num_splits=self._num_splits, buffers=self._split_buffers,
            own=own,
        )  # fmt: skip

    def _find_slots(self, token_rows: torch.Tensor, positions: torch.Tensor, num_padded: int) -> None:
        if num_padded > len(self._slots):
            raise EngineError(
                f"the step has {num_padded} tokens, and the attention backend was made for at most {len(self._slots)}; "
                "lower --max-prefill-length"
            )
        find_slots(
            token_rows, positions, self._page_table, self._slots, self._rows, self._context_lens, self._positions,
            page_size=self._pool.page_size, num_padded=num_padded,
        )  # fmt: skip

    def _upload_plan(
        self, batch: ForwardBatch, decoding: npt.NDArray[np.bool_]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The tokens that decode (`None` if none does) and the tiles of the other runs, in one copy to the device."""
        first_tokens = np.cumsum(batch.lens) - batch.lens
        longer = ~decoding
        tile_list = prefill_tile_list(
            first_tokens[longer], batch.starts[longer], batch.lens[longer], batch.rows[longer],
            group_size=self._group_size, block_m=self._prefill_tiles.block_m,
        )  # fmt: skip
        tokens: Int32Array = first_tokens[decoding].astype(np.int32)
        padding = np.zeros(-tile_list.size % _ALIGNED_INTS, dtype=np.int32)
        packed = torch.from_numpy(np.concatenate((tile_list.ravel(), padding, tokens)))
        if self._page_table.device.type == "cuda":
            packed = packed.pin_memory()  # else the copy would wait for the device
        packed = packed.to(self._page_table.device, non_blocking=True)
        listed = packed[tile_list.size + len(padding) :]
        return listed if len(tokens) else None, packed[: tile_list.size].view(-1, TILE_FIELDS)
