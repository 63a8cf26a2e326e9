"""Attention with FlashInfer's kernels, where that package is installed: `--attention-backend flashinfer`.

`registry.py` makes it and says where it can't run. It stands beside `TritonAttention`: the same slots and the same
store of keys and values, but FlashInfer's planner and its kernels attend to them.

Source: FlashInfer (Ye et al., 2025); its paged wrappers as in version 0.5.3 and later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.attention.flashinfer_plan import as_pages, find_pages, pinned, workspace_bytes
from learnsgl.core import Int32Array
from learnsgl.engine.kv_pool import KVPool
from learnsgl.errors import EngineError
from learnsgl.kernels.configs import read_traits
from learnsgl.kernels.find_slots import find_slots
from learnsgl.kernels.rotary_store import QKNorm, rotate_and_store, store_kv

PLAN_BYTES = 8 << 20
"""What a wrapper keeps of its plan on the device, and once more in pinned memory: FlashInfer's own size."""

TENSOR_CORE_GROUP = 4
"""From so many query heads a KV head on, decoding is faster on the matrix units (SGLang's choice as well). The other
kernel knows groups of 1, 2, 3, 4 and 8 only; this one knows any."""


class FlashInferAttention:
    """The FlashInfer backend (`AttentionBackend`, `GraphedAttention`).

    The scheduler puts runs that decode behind chunks of prompts. So a step's last runs of one token go through the
    decode wrapper, which shares a long context out over the chip, and the runs before them through the prefill
    wrapper.

    Planning happens on the host, from lengths that the host knows, and its result is copied to the device from a
    pinned buffer that the next plan overwrites. So `plan` waits until the copy of the plan before it is done, which is
    the first work of a step that has begun by then.
    """

    def __init__(self, pool: KVPool, page_table: torch.Tensor, *, num_heads: int, max_tokens: int) -> None:
        """Attend to what `pool` holds.

        Args:
            pool: keys and values, fp16 or bf16.
            page_table: int32 [num_rows, max_pages_per_row]; the engine keeps it up to date.
            num_heads: query heads, a multiple of the pool's KV heads.
            max_tokens: most tokens of one step, padding included.
        """
        import flashinfer  # takes seconds, and is there for those who choose it

        _, num_kv_heads, _, head_dim = pool.layers[0].shape
        self._pool = pool
        self._page_table = page_table
        self._device = page_table.device
        self._num_heads, self._num_kv_heads, self._head_dim = num_heads, num_kv_heads, head_dim
        self._has_tensor_cores = num_heads // num_kv_heads >= TENSOR_CORE_GROUP
        self._caches = [as_pages(layer, pool.page_size) for layer in pool.layers]
        self._slots = torch.zeros(max_tokens, dtype=torch.int64, device=self._device)
        self._positions = torch.zeros(max_tokens, dtype=torch.int64, device=self._device)
        self._rows = torch.zeros(max_tokens, dtype=torch.int32, device=self._device)  # `find_slots` fills it
        self._context_lens = torch.zeros(max_tokens, dtype=torch.int32, device=self._device)  # and this
        num_bytes = workspace_bytes(
            num_heads, num_kv_heads, head_dim, num_rows=len(page_table), num_sms=read_traits(self._device).num_sms
        )
        self._workspace = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        # The kernels that decoding takes as well. Those for Hopper alone don't split a context, and list its slots anew
        # in each layer; Mini-SGLang chooses likewise.
        self._prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "HND", backend="fa2")
        self._decode_wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper
        self._eager_decode = self._decode_wrapper(self._workspace, "HND", use_tensor_cores=self._has_tensor_cores)
        self._decode = self._eager_decode
        self._graphed: dict[int, Any] = {}  # a decode wrapper for each size of a graph
        self._graph_buffers: tuple[torch.Tensor, torch.Tensor] | None = None
        self._num_prefill_tokens = 0
        self._has_decode = False
        self._plan_copied = torch.cuda.Event() if self._device.type == "cuda" else None

    def plan(self, batch: ForwardBatch) -> None:
        """See `AttentionBackend.plan`.

        Raises:
            EngineError: the step has more tokens than there are buffers for, or FlashInfer can't plan it.
        """
        self._find_slots(batch, len(batch.token_rows))
        longer = np.flatnonzero(batch.lens != 1)
        num_prefill = int(longer[-1]) + 1 if len(longer) else 0
        self._num_prefill_tokens = int(batch.lens[:num_prefill].sum())
        self._has_decode = num_prefill < len(batch.lens)
        self._decode = self._eager_decode
        ends = batch.starts + batch.lens
        with self._planning():
            if num_prefill:
                self._plan_prefill(batch.rows[:num_prefill], ends[:num_prefill], batch.lens[:num_prefill])
            if self._has_decode:
                self._plan_decode(batch.rows[num_prefill:], ends[num_prefill:])

    def plan_padded(self, batch: ForwardBatch, num_padded: int) -> None:
        """Plan a step in which all rows decode, padded to the size of a CUDA graph; see `GraphedAttention`.

        FlashInfer fixes a graph's grid by its number of rows, so each size has a wrapper of its own, which share what
        only one step needs at a time. Padding attends to the first token of a page: its results mean nothing.

        Raises:
            EngineError: there are fewer buffers than `num_padded`, or fewer tokens in the graph than in the step, or
                FlashInfer can't plan it.
        """
        num_missing = num_padded - len(batch.rows)
        if num_missing < 0:
            raise EngineError(f"{len(batch.rows)} tokens don't fit a graph of {num_padded}; take a larger one")
        self._find_slots(batch, num_padded)
        self._num_prefill_tokens, self._has_decode = 0, True
        if num_padded not in self._graphed:
            self._graphed[num_padded] = self._make_graphed(num_padded)
        self._decode = self._graphed[num_padded]
        with self._planning():
            self._plan_decode(
                np.pad(batch.rows, (0, num_missing)),
                np.pad(batch.starts + batch.lens, (0, num_missing), constant_values=1),
            )

    def forward(self, layer: int, query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
        """See `AttentionBackend.forward`."""
        store_kv(key_value, self._slots, self._pool.layers[layer])
        return self._attend(layer, query)

    def rotate_and_attend(
        self, layer: int, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, norm: QKNorm | None = None
    ) -> torch.Tensor:
        """`forward` for heads that aren't rotated yet; see `TritonAttention.rotate_and_attend`."""
        rotate_and_store(
            qkv, cos, sin, self._positions, self._slots, self._pool.layers[layer], num_heads=self._num_heads, norm=norm
        )
        return self._attend(layer, qkv[:, : self._num_heads])

    def _attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """[T, H, D] to [T, H * D], once the step's own keys and values are in their pages."""
        out = query.new_empty(query.shape)
        cut = self._num_prefill_tokens
        if cut:
            self._prefill.run(query[:cut], self._caches[layer], out=out[:cut])
        if self._has_decode:
            self._decode.run(query[cut:], self._caches[layer], out=out[cut:])
        return out.flatten(1)

    def _plan_prefill(self, rows: Int32Array, context_lens: Int32Array, lens: Int32Array) -> None:
        lists = find_pages(rows, context_lens, self._page_table, page_size=self._pool.page_size)
        first_tokens = np.concatenate(([0], np.cumsum(lens))).astype(np.int32)
        self._prefill.plan(
            pinned(first_tokens, self._device), lists.indptr, lists.indices, lists.last_page_len, self._num_heads,
            self._num_kv_heads, self._head_dim, self._pool.page_size, causal=True, seq_lens=lists.context_lens,
            **self._numbers(),
        )  # fmt: skip

    def _plan_decode(self, rows: Int32Array, context_lens: Int32Array) -> None:
        lists = find_pages(rows, context_lens, self._page_table, page_size=self._pool.page_size)
        self._decode.plan(
            lists.indptr, lists.indices, lists.last_page_len, self._num_heads, self._num_kv_heads, self._head_dim,
            self._pool.page_size, seq_lens=lists.context_lens, **self._numbers(),
        )  # fmt: skip

    def _numbers(self) -> dict[str, Any]:
        dtype = self._pool.layers[0].dtype
        return {
            "q_data_type": dtype, "kv_data_type": dtype, "sm_scale": self._head_dim**-0.5, "non_blocking": True,
        }  # fmt: skip

    def _make_graphed(self, size: int) -> Any:
        """A decode wrapper whose plans lie at the same addresses each time."""
        if self._graph_buffers is None:
            self._graph_buffers = (
                torch.zeros(self._page_table.numel(), dtype=torch.int32, device=self._device),
                torch.zeros(PLAN_BYTES, dtype=torch.uint8, device=self._device),
            )
        indices, plan = self._graph_buffers  # one step needs them at a time
        numbers = torch.zeros(2 * size + 1, dtype=torch.int32, device=self._device)
        wrapper = self._decode_wrapper(
            self._workspace, "HND", use_cuda_graph=True, use_tensor_cores=self._has_tensor_cores,
            paged_kv_indptr_buffer=numbers[: size + 1], paged_kv_indices_buffer=indices,
            paged_kv_last_page_len_buffer=numbers[size + 1 :],
        )  # fmt: skip
        wrapper.reset_workspace_buffer(self._workspace, plan)  # else each would keep PLAN_BYTES
        return wrapper

    def _find_slots(self, batch: ForwardBatch, num_padded: int) -> None:
        if num_padded > len(self._slots):
            raise EngineError(
                f"the step has {num_padded} tokens, and the attention backend was made for at most {len(self._slots)}; "
                "lower --max-prefill-length"
            )
        find_slots(
            batch.token_rows, batch.positions, self._page_table, self._slots, self._rows, self._context_lens,
            self._positions, page_size=self._pool.page_size, num_padded=num_padded,
        )  # fmt: skip

    @contextmanager
    def _planning(self) -> Iterator[None]:
        """Plan within it: the last plan's pinned buffer is free again, and FlashInfer's errors become ours."""
        if self._plan_copied is not None:
            self._plan_copied.synchronize()
        try:
            yield
        except (torch.OutOfMemoryError, EngineError):
            raise
        except Exception as error:
            raise EngineError(
                f"FlashInfer couldn't plan a step: {error}. It compiles its kernels when they are first used, with the "
                "nvcc of a CUDA toolkit and ninja; install these or the package flashinfer-jit-cache, or take "
                "--attention-backend triton"
            ) from error
        if self._plan_copied is not None:
            self._plan_copied.record()
