"""The Triton backend beside the torch backend: steps of prompts, chunks, answers and both, and padded steps."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.attention.torch_backend import TorchAttention
from learnsgl.attention.triton_backend import TritonAttention
from learnsgl.engine.kv_pool import KVPool
from learnsgl.errors import EngineError
from learnsgl.kernels.rms_norm import qk_norm_reference_
from learnsgl.kernels.rotary_store import QKNorm
from learnsgl.models.rope import rotate_
from tests.kernels.cases import assert_close, generator

NUM_ROWS, MAX_PAGES, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 5, 24, 6, 2, 16


class Pair:
    """Both backends over pools of their own, which they fill with the same steps."""

    def __init__(self, device: torch.device, page_size: int) -> None:
        config = SimpleNamespace(num_kv_heads=NUM_KV_HEADS, head_dim=HEAD_DIM, num_layers=2)
        self.device = device
        self.pools = [
            KVPool(config, num_pages=NUM_ROWS * MAX_PAGES, page_size=page_size, dtype=torch.float32, device=device)
            for _ in range(2)
        ]
        pages = torch.randperm(NUM_ROWS * MAX_PAGES, generator=generator(3)).int()
        self.page_table = pages.view(NUM_ROWS, MAX_PAGES).to(device)
        limits = {"max_tokens": 64, "max_context_len": MAX_PAGES * page_size}
        self.triton = TritonAttention(self.pools[0], self.page_table, num_heads=NUM_HEADS, **limits)
        self.torch = TorchAttention(self.pools[1], self.page_table, num_heads=NUM_HEADS, max_dense_bytes=0)

    def batch(self, runs: list[tuple[int, int, int]]) -> ForwardBatch:
        """A step of (row, first position, length)."""
        rows, starts, lens = (np.array(column, dtype=np.int32) for column in zip(*runs, strict=True))
        positions = np.concatenate([np.arange(start, start + length) for _, start, length in runs])
        as_tensor = torch.from_numpy(np.repeat(rows, lens).astype(np.int64)), torch.from_numpy(positions)
        token_rows, positions_ = (tensor.to(self.device) for tensor in as_tensor)
        return ForwardBatch(
            rows=rows, starts=starts, lens=lens, tenancies=np.ones(len(rows), dtype=np.int64), token_rows=token_rows,
            positions=positions_, input_ids=token_rows, logit_indices=None,
        )  # fmt: skip

    def heads(self, num_tokens: int, seed: int) -> torch.Tensor:
        num_all = NUM_HEADS + 2 * NUM_KV_HEADS
        return torch.randn(num_tokens, num_all, HEAD_DIM, generator=generator(seed)).to(self.device)

    def step(self, runs: list[tuple[int, int, int]], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """What both give for a step, the same heads in two layers."""
        batch = self.batch(runs)
        qkv = self.heads(len(batch.positions), seed)
        results = []
        for backend in (self.triton, self.torch):
            backend.plan(batch)
            for layer in range(2):
                out = backend.forward(layer, qkv[:, :NUM_HEADS], qkv[:, NUM_HEADS:])
            results.append(out)
        return results[0], results[1]


STEPS = [
    [(0, 0, 20)],  # a prompt
    [(0, 20, 1)],  # its first answer
    [(1, 0, 5), (0, 21, 1), (3, 0, 9)],  # prompts beside an answer
    [(1, 5, 7), (3, 9, 2)],  # chunks
    [(3, 11, 1), (0, 22, 1), (1, 12, 1)],  # answers alone
    [(4, 0, 1), (0, 23, 1), (2, 0, 24)],  # a prompt of one token
]


@pytest.mark.parametrize("page_size", [1, 4])
def test_steps_of_every_kind(page_size: int, device: torch.device) -> None:
    pair = Pair(device, page_size)
    for number, runs in enumerate(STEPS):
        actual, expected = pair.step(runs, seed=number)
        assert actual.shape == expected.shape == (sum(length for *_, length in runs), NUM_HEADS * HEAD_DIM)
        assert_close(actual, expected)
    filled = pair.triton._slots[: len(STEPS[-1])]
    assert torch.equal(pair.pools[0].layers[1][:, :, filled], pair.pools[1].layers[1][:, :, filled])


def test_a_padded_step_stores_nothing_for_padding(device: torch.device) -> None:
    pair = Pair(device, 4)
    pair.step([(0, 0, 9), (2, 0, 17)])
    pool = pair.pools[0].layers[0]
    pool.nan_to_num_()  # slots that were never written hold anything, and a NaN isn't equal to itself
    batch, before = pair.batch([(2, 17, 1), (0, 9, 1)]), pool.clone()
    qkv = pair.heads(8, seed=5)
    pair.torch.plan(batch)
    expected = pair.torch.forward(0, qkv[:2, :NUM_HEADS], qkv[:2, NUM_HEADS:])
    pair.triton.plan_padded(batch, 8)
    actual = pair.triton.forward(0, qkv[:, :NUM_HEADS], qkv[:, NUM_HEADS:])
    assert_close(actual[:2], expected)
    assert torch.equal(actual[2:], torch.zeros_like(actual[2:]))
    changed = (pool != before).flatten(0, 1).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    assert changed == sorted(pair.triton._slots[:2].tolist())


def test_what_a_graph_fixes_hangs_on_its_size_alone(device: torch.device) -> None:
    pair = Pair(device, 4)
    pair.triton.plan_padded(ForwardBatch.of_no_tokens(device), 4)

    def fixed() -> list[Any]:
        """The number of splits, and what the kernel is given."""
        given = pair.triton._decode
        return [pair.triton._num_splits, *(getattr(given, field.name) for field in dataclasses.fields(given))]

    captured = fixed()
    batch = pair.batch([(0, 60, 1), (1, 0, 1)])
    pair.triton.plan_padded(batch, 4)
    assert all(now is then for now, then in zip(fixed(), captured, strict=True)), "the same tensors, not equal ones"
    assert pair.triton._context_lens[:4].tolist() == [61, 1, 0, 0]


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("runs", [[(0, 6, 3), (1, 0, 2)], [(0, 6, 1), (1, 0, 1)]], ids=["prompts", "answers"])
def test_rotating_on_the_way(has_norm: bool, runs: list[tuple[int, int, int]], device: torch.device) -> None:
    pair = Pair(device, 4)
    pair.step([(0, 0, 6)])
    batch = pair.batch(runs)
    qkv = pair.heads(len(batch.positions), seed=1)
    angles = torch.outer(torch.arange(32.0), 10.0 ** -torch.arange(0.0, 2.0, 0.25)).to(device)
    cos, sin = angles.cos(), angles.sin()
    norm = QKNorm(torch.full((HEAD_DIM,), 0.5, device=device), torch.ones(HEAD_DIM, device=device), 1e-6)
    by_model = qkv.clone()
    if has_norm:
        sizes = {"num_heads": NUM_HEADS, "num_kv_heads": NUM_KV_HEADS}
        qk_norm_reference_(by_model, norm.q_weight, norm.k_weight, norm.eps, **sizes)
    whole_cos, whole_sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    rotated = by_model[:, : NUM_HEADS + NUM_KV_HEADS]
    rotate_(rotated, whole_cos[batch.positions].unsqueeze(1), whole_sin[batch.positions].unsqueeze(1))
    pair.torch.plan(batch)
    expected = pair.torch.forward(0, by_model[:, :NUM_HEADS], by_model[:, NUM_HEADS:])
    pair.triton.plan(batch)
    assert_close(pair.triton.rotate_and_attend(0, qkv, cos, sin, norm=norm if has_norm else None), expected)


def test_too_many_tokens_are_refused(device: torch.device) -> None:
    pair = Pair(device, 4)
    with pytest.raises(EngineError, match="the step has 65 tokens, and the attention backend was made for at most 64"):
        pair.triton.plan(pair.batch([(0, 0, 65)]))
    batch = pair.batch([(0, 3, 1), (1, 3, 1)])
    with pytest.raises(EngineError, match="2 tokens don't fit a graph of 1"):
        pair.triton.plan_padded(batch, 1)


def test_the_workspace_is_what_it_says(device: torch.device) -> None:
    triton = Pair(device, 4).triton
    tensors = [value for value in vars(triton).values() if isinstance(value, torch.Tensor)]
    tensors += [triton._split_buffers.partials, triton._split_buffers.log_sums]
    assert triton.workspace_bytes == sum(one.nbytes for one in tensors if one is not triton._page_table)
