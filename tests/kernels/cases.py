"""What the kernels' tests share: how far a dtype may be off, and contexts whose pages lie anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def tolerance(dtype: torch.dtype) -> float:
    """Error that a result of about 1 may have: some roundings of the dtype, and a long sum in fp32."""
    return 1e-5 if dtype == torch.float32 else 3 * torch.finfo(dtype).eps


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within the error of the actual tensor's dtype, absolute near 0 and relative beyond 1."""
    error = tolerance(actual.dtype)
    torch.testing.assert_close(actual.float(), expected.float(), rtol=error, atol=error)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Paged:
    """A layer of a KV pool with contexts in it, and queries for their last tokens.

    Attributes:
        rows: table row of each run.
        starts: first position of each run.
        lens: tokens of each run.
    """

    query: torch.Tensor
    kv_layer: torch.Tensor
    page_table: torch.Tensor
    page_size: int
    rows: np.ndarray
    starts: np.ndarray
    lens: np.ndarray
    scale: float

    @property
    def first_tokens(self) -> np.ndarray:
        return np.cumsum(self.lens) - self.lens

    def reference(self) -> torch.Tensor:
        from learnsgl.kernels.paged_attention import paged_attention_reference

        return paged_attention_reference(
            self.query, self.kv_layer, self.page_table, page_size=self.page_size, rows=self.rows.tolist(),
            starts=self.starts.tolist(), lens=self.lens.tolist(), scale=self.scale,
        )  # fmt: skip


def make_paged(
    starts: Sequence[int],
    lens: Sequence[int],
    *,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    page_size: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device,
    seed: int = 0,
) -> Paged:
    """Contexts of `starts + lens` tokens in pages that are dealt out at random; slots of no context hold NaN."""
    random = generator(seed)
    starts_, lens_ = np.array(starts, dtype=np.int32), np.array(lens, dtype=np.int32)
    num_runs = len(starts_)
    counts = -(-(starts_ + lens_) // page_size)
    num_pages, num_rows = int(counts.sum()) + 3, num_runs + 2
    rows = torch.randperm(num_rows, generator=random)[:num_runs].numpy().astype(np.int32)
    dealt = torch.randperm(num_pages, generator=random).int()
    page_table = torch.full((num_rows, int(counts.max(initial=0)) + 1), num_pages - 1, dtype=torch.int32)
    kv_layer = torch.full((2, num_kv_heads, num_pages * page_size, head_dim), torch.nan)
    used = 0
    for row, count, length in zip(rows.tolist(), counts.tolist(), (starts_ + lens_).tolist(), strict=True):
        page_table[row, :count] = dealt[used : used + count]
        used += count
        positions = torch.arange(length)
        slots = page_table[row, positions // page_size].long() * page_size + positions % page_size
        kv_layer[:, :, slots] = torch.randn(2, num_kv_heads, length, head_dim, generator=random)
    query = torch.randn(int(lens_.sum()), num_heads, head_dim, generator=random)
    return Paged(
        query.to(device, dtype), kv_layer.to(device, dtype), page_table.to(device), page_size, rows, starts_, lens_,
        head_dim**-0.5,
    )  # fmt: skip
