"""Dense copies of contexts never change an answer: random rows that decode, pause, are given to others and grow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.attention.backend import ForwardBatch
from learnsgl.attention.dense_contexts import GROUP_PADDING_TOKENS, STRIP_TOKENS, split_strips
from learnsgl.attention.torch_backend import TorchAttention
from learnsgl.engine.kv_pool import KVPool
from learnsgl.models.config import ModelConfig

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, NUM_ROWS, MAX_LEN = 4, 2, 8, 6, 700
CONFIG = ModelConfig(
    architecture="LlamaForCausalLM", vocab_size=16, hidden_size=32, intermediate_size=32, num_layers=1,
    num_heads=NUM_HEADS, num_kv_heads=NUM_KV_HEADS, head_dim=HEAD_DIM, max_position_embeddings=MAX_LEN,
    rms_norm_eps=1e-5, rope_theta=10_000.0, rope_scaling=None, tie_word_embeddings=True, attention_bias=False,
    mlp_bias=False, dtype=None, eos_ids=(),
)  # fmt: skip


@dataclass
class Rows:
    """Rows of a page table over scattered pages of one token, and two backends over the same pool."""

    max_dense_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(0)
        torch.manual_seed(0)
        self.pool = KVPool(CONFIG, num_pages=NUM_ROWS * MAX_LEN, page_size=1, dtype=torch.float32, device="cpu")
        pages = self.random.permutation(NUM_ROWS * MAX_LEN).reshape(NUM_ROWS, MAX_LEN)
        self.table = torch.from_numpy(pages.astype(np.int32))
        self.lens = np.zeros(NUM_ROWS, dtype=np.int32)
        self.tenancies = np.zeros(NUM_ROWS, dtype=np.int64)
        self.dense, self.plain = (
            TorchAttention(self.pool, self.table, num_heads=NUM_HEADS, max_dense_bytes=max_bytes)
            for max_bytes in (self.max_dense_bytes, 0)
        )

    def release(self, row: int) -> None:
        """The row goes to another request, whose pages lie elsewhere and hold nothing of the old one's."""
        self.lens[row] = 0
        self.tenancies[row] += 1
        self.table[row] = self.table[row].roll(7)

    def step(self, runs: dict[int, int]) -> None:
        """Compute so many more tokens of each row, with both backends."""
        rows = np.array(list(runs), dtype=np.int32)
        lens = np.array(list(runs.values()), dtype=np.int32)
        starts = self.lens[rows]
        positions = np.concatenate([start + np.arange(n) for start, n in zip(starts, lens, strict=True)])
        batch = ForwardBatch(
            rows=rows, starts=starts, lens=lens, tenancies=self.tenancies[rows],
            token_rows=torch.from_numpy(np.repeat(rows, lens).astype(np.int64)),
            positions=torch.from_numpy(positions.astype(np.int64)),
            input_ids=torch.zeros(len(positions), dtype=torch.int64), logit_indices=None,
        )  # fmt: skip
        query = torch.randn(len(positions), NUM_HEADS, HEAD_DIM)
        key_value = torch.randn(len(positions), 2 * NUM_KV_HEADS, HEAD_DIM)
        outs = []
        for backend in (self.dense, self.plain):
            backend.plan(batch)
            outs.append(backend.forward(0, query, key_value))
        torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)
        self.lens[rows] += lens


PROGRAMS = st.lists(
    st.dictionaries(st.integers(0, NUM_ROWS - 1), st.sampled_from([1, 1, 1, 1, 0, 5, 300]), min_size=1),
    min_size=1,
    max_size=12,
)
"""Steps: tokens of each row; 0 gives the row to another request instead."""


def run(rows: Rows, program: list[dict[int, int]]) -> None:
    for step in program:
        for row in [row for row, length in step.items() if length == 0 or rows.lens[row] + length > MAX_LEN]:
            rows.release(row)
        if runs := {row: length for row, length in step.items() if length}:
            rows.step(runs)


@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_answers_are_those_of_the_pages(program: list[dict[int, int]]) -> None:
    run(Rows(), program)


@settings(max_examples=20, deadline=None)
@given(PROGRAMS)
def test_answers_are_the_same_where_memory_is_short(program: list[dict[int, int]]) -> None:
    token_bytes = KVPool.page_bytes(CONFIG, page_size=1, dtype=torch.float32)
    run(Rows(max_dense_bytes=3 * STRIP_TOKENS * token_bytes), program)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_a_row_that_pauses_and_one_that_changes_hands_are_brought_up_to_date(order: list[int]) -> None:
    rows = Rows()
    rows.step({row: 40 + row for row in order})
    rows.step(dict.fromkeys(order, 1))
    rows.step({order[0]: 1, order[1]: 1})  # the third pauses
    rows.release(order[0])
    rows.step({order[0]: 33, order[1]: 1})
    rows.step(dict.fromkeys(order, 1))


def test_strips_grow_with_the_longest_context() -> None:
    rows = Rows()
    rows.step({0: STRIP_TOKENS - 1, 1: 3})
    for _ in range(3):
        rows.step({0: 1, 1: 1})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_strips_are_shared_out_in_order_with_bounded_padding(lens: list[int]) -> None:
    groups = split_strips(np.array(lens))
    assert [strip for group in groups for strip in range(group.start, group.stop)] == list(range(len(lens)))
    for group in groups:
        members = lens[group]
        assert max(members) * len(members) - sum(members) <= GROUP_PADDING_TOKENS * (len(members) - 1)
