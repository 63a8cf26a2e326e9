"""The FlashInfer backend beside the torch backend, over pools of their own which both fill with the same steps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.attention.flashinfer_backend import FlashInferAttention
from learnsgl.attention.torch_backend import TorchAttention
from learnsgl.engine.kv_pool import KVPool

NUM_ROWS, MAX_PAGES, MAX_TOKENS = 5, 48, 64

Run = tuple[int, int, int]
"""Row, first position, length."""

STEPS: list[list[Run]] = [
    [(0, 0, 20)],  # a prompt
    [(0, 20, 1)],  # its first answer
    [(1, 0, 5), (3, 0, 9), (0, 21, 1)],  # prompts before an answer, as the scheduler puts them
    [(1, 5, 7), (3, 9, 2)],  # chunks
    [(3, 11, 1), (0, 22, 1), (1, 12, 1)],  # answers alone
    [(4, 0, 1), (0, 23, 1), (2, 0, 24)],  # answers and a prompt of one token before a prompt
    [(2, 24, 3), (4, 1, 1), (1, 13, 4), (0, 24, 1)],  # an answer between chunks
]


class Pair:
    """Both backends; H query heads over KV heads of D features."""

    def __init__(
        self, page_size: int, *, heads: tuple[int, int] = (6, 2), head_dim: int = 16, max_pages: int = MAX_PAGES,
        dtype: torch.dtype = torch.float32, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.num_heads, self.num_kv_heads = heads
        self.head_dim, self.dtype, self.device = head_dim, dtype, torch.device(device)
        config = SimpleNamespace(num_kv_heads=self.num_kv_heads, head_dim=head_dim, num_layers=2)
        num_pages = NUM_ROWS * max_pages
        self.pools = [
            KVPool(config, num_pages=num_pages, page_size=page_size, dtype=dtype, device=self.device)  # type: ignore[arg-type]
            for _ in range(2)
        ]
        for layer in (layer for pool in self.pools for layer in pool.layers):
            layer.fill_(float("nan"))  # what was never written must not be read
        pages = torch.randperm(num_pages, generator=generator(3)).int()
        self.page_table = pages.view(NUM_ROWS, max_pages).to(self.device)
        self.flashinfer = FlashInferAttention(
            self.pools[0], self.page_table, num_heads=self.num_heads, max_tokens=MAX_TOKENS
        )
        self.torch = TorchAttention(self.pools[1], self.page_table, num_heads=self.num_heads, max_dense_bytes=0)

    def batch(self, runs: list[Run]) -> ForwardBatch:
        """A step."""
        rows, starts, lens = (np.array(column, dtype=np.int32) for column in zip(*runs, strict=True))
        positions = np.concatenate([np.arange(start, start + length) for _, start, length in runs])
        token_rows = torch.from_numpy(np.repeat(rows, lens).astype(np.int64)).to(self.device)
        return ForwardBatch(
            rows=rows, starts=starts, lens=lens, tenancies=np.ones(len(rows), dtype=np.int64), token_rows=token_rows,
            positions=torch.from_numpy(positions).to(self.device), input_ids=token_rows, logit_indices=None,
        )  # fmt: skip

    def heads(self, num_tokens: int, seed: int = 0) -> torch.Tensor:
        """Queries, keys and values: [T, H + 2 KV, D]."""
        shape = (num_tokens, self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        return torch.randn(shape, generator=generator(seed)).to(self.dtype).to(self.device)

    def expected(self, batch: ForwardBatch, qkv: torch.Tensor, layer: int = 0) -> torch.Tensor:
        """What the torch backend gives."""
        self.torch.plan(batch)
        return self.torch.forward(layer, qkv[:, : self.num_heads], qkv[:, self.num_heads :])

    def actual(self, qkv: torch.Tensor, layer: int = 0) -> torch.Tensor:
        """What the FlashInfer backend gives for the step that it has planned."""
        return self.flashinfer.forward(layer, qkv[:, : self.num_heads], qkv[:, self.num_heads :])

    def step(self, runs: list[Run], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """What both give for a step, the same heads in two layers."""
        batch = self.batch(runs)
        qkv = self.heads(len(batch.positions), seed)
        self.flashinfer.plan(batch)
        results = [(self.actual(qkv, layer), self.expected(batch, qkv, layer)) for layer in range(2)]
        return results[1]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within some roundings of the dtype, absolute near 0 and relative beyond 1."""
    error = 1e-5 if actual.dtype == torch.float32 else 3 * torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual.float(), expected.float(), rtol=error, atol=error)
