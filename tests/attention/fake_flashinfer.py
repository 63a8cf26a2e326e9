"""A stand-in for the package flashinfer: its wrappers' signatures of version 0.5.3, and torch in the place of kernels.

It is stricter than the real one: it checks what the real one assumes of plans, pages and buffers, and it forgets
nothing, so that `test_flashinfer_signatures.py` can bind each call to the real package where there is one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

PLAN_BYTES = 8 << 20


class Wrapper:
    """What both wrappers have.

    Attributes:
        calls: (class, method, arguments, keywords) of every call; a test empties it.
        fault: is raised by the next plan.
    """

    calls: ClassVar[list[tuple[str, str, tuple[Any, ...], dict[str, Any]]]] = []
    fault: ClassVar[Exception | None] = None

    def _remember(self, method: str, *args: Any, **keywords: Any) -> None:
        Wrapper.calls.append((type(self).__name__, method, args, keywords))

    def _set_up(self, workspace: torch.Tensor, kv_layout: str, fixed: tuple[torch.Tensor, ...] | None) -> None:
        assert workspace.dtype == torch.uint8
        assert not workspace.any(), "it must be 0 when it is first used"
        assert kv_layout == "HND"
        self.fixed = fixed  # indptr, indices, last_page_len
        self.workspace, self.plan_buffer = workspace, torch.empty(PLAN_BYTES, dtype=torch.uint8)
        self.num_plans = 0

    def reset_workspace_buffer(self, float_workspace_buffer: torch.Tensor, int_workspace_buffer: torch.Tensor) -> None:
        self._remember("reset_workspace_buffer", float_workspace_buffer, int_workspace_buffer)
        assert int_workspace_buffer.nbytes >= PLAN_BYTES
        self.workspace, self.plan_buffer = float_workspace_buffer, int_workspace_buffer

    def _keep(
        self, qo_indptr: torch.Tensor, indptr: torch.Tensor, indices: torch.Tensor, last_page_len: torch.Tensor,
        seq_lens: torch.Tensor, shape: tuple[int, int, int, int], sm_scale: float | None, dtypes: tuple[Any, Any],
    ) -> None:  # fmt: skip
        """Check a plan, and keep it where `run` finds it."""
        if Wrapper.fault is not None:
            raise Wrapper.fault
        page_size = shape[3]
        assert {one.dtype for one in (qo_indptr, indptr, indices, last_page_len, seq_lens)} == {torch.int32}
        counts = indptr.diff()
        assert indptr[0] == qo_indptr[0] == 0
        assert len(indices) == indptr[-1]
        assert (counts >= 1).all()
        assert ((last_page_len >= 1) & (last_page_len <= page_size)).all()
        assert torch.equal(seq_lens, (counts - 1) * page_size + last_page_len)
        assert (seq_lens >= qo_indptr.diff()).all()
        if self.fixed is None:
            self.lists = (indptr.clone(), indices.clone(), last_page_len.clone())
        else:
            assert len(last_page_len) == len(self.fixed[2]), "a graph's number of rows is fixed"
            assert len(indices) <= len(self.fixed[1])
            for mine, given in zip(self.fixed, (indptr, indices, last_page_len), strict=True):
                mine[: len(given)].copy_(given)
            self.lists = self.fixed
        self.qo_indptr, self.shape, self.sm_scale, self.dtypes = qo_indptr.clone(), shape, sm_scale, dtypes
        self.num_plans += 1

    def _attend(self, q: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        """Each run sees the pages of its context, its tokens at the context's end."""
        num_heads, num_kv_heads, head_dim, page_size = self.shape
        assert isinstance(cache, tuple)
        assert [one.dtype for one in (q, cache[0])] == list(self.dtypes)
        assert cache[0].stride() == cache[1].stride()
        assert cache[0].shape[1:] == cache[1].shape[1:] == (num_kv_heads, page_size, head_dim)
        assert q.shape == out.shape == (self.qo_indptr[-1], num_heads, head_dim)
        assert out.is_contiguous()
        assert q.stride(2) == 1
        indptr, indices, last_page_len = self.lists
        for run in range(len(self.qo_indptr) - 1):
            first, stop = self.qo_indptr[run : run + 2].tolist()
            pages = indices[indptr[run] : indptr[run + 1]].long()
            length = (len(pages) - 1) * page_size + int(last_page_len[run])
            # [pages, KV, page_size, D] to [H, L, D]
            keys, values = (
                one[pages].transpose(0, 1).flatten(1, 2)[:, :length].repeat_interleave(num_heads // num_kv_heads, 0)
                for one in cache
            )
            scores = torch.einsum("thd,hld->htl", q[first:stop].float(), keys.float()) * self.sm_scale
            positions = torch.arange(length - (stop - first), length)
            scores.masked_fill_(torch.arange(length) > positions[:, None], -torch.inf)
            out[first:stop] = torch.einsum("htl,hld->thd", scores.softmax(-1), values.float()).to(out.dtype)
        return out


class BatchPrefillWithPagedKVCacheWrapper(Wrapper):
    """Runs of any length."""

    def __init__(
        self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, qo_indptr_buf=None,
        paged_kv_indptr_buf=None, paged_kv_indices_buf=None, paged_kv_last_page_len_buf=None, custom_mask_buf=None,
        mask_indptr_buf=None, backend="auto", jit_args=None, jit_kwargs=None,
    ) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        self._remember("__init__", float_workspace_buffer, kv_layout, backend=backend)
        assert not use_cuda_graph
        assert backend == "fa2"
        self._set_up(float_workspace_buffer, kv_layout, None)

    def plan(
        self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads, num_kv_heads,
        head_dim_qk, page_size, head_dim_vo=None, custom_mask=None, packed_custom_mask=None, causal=False,
        pos_encoding_mode="NONE", use_fp16_qk_reduction=False, sm_scale=None, window_left=-1, logits_soft_cap=None,
        rope_scale=None, rope_theta=None, q_data_type="float16", kv_data_type=None, non_blocking=True,
        prefix_len_ptr=None, token_pos_in_items_ptr=None, token_pos_in_items_len=0, max_item_len_ptr=None,
        seq_lens=None, seq_lens_q=None, block_tables=None, max_token_per_sequence=None, max_sequence_kv=None,
        fixed_split_size=None, disable_split_kv=False,
    ) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        self._remember(
            "plan", qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads, num_kv_heads,
            head_dim_qk, page_size, causal=causal, seq_lens=seq_lens, q_data_type=q_data_type,
            kv_data_type=kv_data_type, sm_scale=sm_scale, non_blocking=non_blocking,
        )  # fmt: skip
        assert causal
        self._keep(
            qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, seq_lens,
            (num_qo_heads, num_kv_heads, head_dim_qk, page_size), sm_scale, (q_data_type, kv_data_type),
        )  # fmt: skip

    def run(
        self, q, paged_kv_cache, *args, q_scale=None, k_scale=None, v_scale=None, out=None, lse=None,
        return_lse=False, enable_pdl=None, window_left=None, sinks=None,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        self._remember("run", q, paged_kv_cache, out=out)
        return self._attend(q, paged_kv_cache, out)


class BatchDecodeWithPagedKVCacheWrapper(Wrapper):
    """Runs of one token, in a CUDA graph perhaps."""

    def __init__(
        self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, use_tensor_cores=False,
        paged_kv_indptr_buffer=None, paged_kv_indices_buffer=None, paged_kv_last_page_len_buffer=None, backend="auto",
        jit_args=None,
    ) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        fixed = (paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer)
        keywords: dict[str, Any] = {"use_tensor_cores": use_tensor_cores}
        if use_cuda_graph:
            assert len(paged_kv_indptr_buffer) == len(paged_kv_last_page_len_buffer) + 1
            names = ("paged_kv_indptr_buffer", "paged_kv_indices_buffer", "paged_kv_last_page_len_buffer")
            keywords |= {"use_cuda_graph": True, **dict(zip(names, fixed, strict=True))}
        self._remember("__init__", float_workspace_buffer, kv_layout, **keywords)
        self.use_tensor_cores = use_tensor_cores
        self._set_up(float_workspace_buffer, kv_layout, fixed if use_cuda_graph else None)

    def plan(
        self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
        pos_encoding_mode="NONE", window_left=-1, logits_soft_cap=None, q_data_type="float16", kv_data_type=None,
        data_type=None, sm_scale=None, rope_scale=None, rope_theta=None, non_blocking=True, block_tables=None,
        seq_lens=None, fixed_split_size=None, disable_split_kv=False,
    ) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        self._remember(
            "plan", indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, seq_lens=seq_lens,
            q_data_type=q_data_type, kv_data_type=kv_data_type, sm_scale=sm_scale, non_blocking=non_blocking,
        )  # fmt: skip
        if not self.use_tensor_cores:
            assert num_qo_heads // num_kv_heads in (1, 2, 3, 4, 8), "the other kernel knows no other groups"
        self._keep(
            torch.arange(len(indptr), dtype=torch.int32), indptr, indices, last_page_len, seq_lens,
            (num_qo_heads, num_kv_heads, head_dim, page_size), sm_scale, (q_data_type, kv_data_type),
        )  # fmt: skip

    def run(
        self, q, paged_kv_cache, *args, q_scale=None, k_scale=None, v_scale=None, out=None, lse=None,
        return_lse=False, enable_pdl=None, window_left=None, sinks=None, q_len_per_req=1,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        self._remember("run", q, paged_kv_cache, out=out)
        return self._attend(q, paged_kv_cache, out)
