"""Bias, penalties and min_tokens beside a slow reading of their definition; and neighbours, which must not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.core import ReqKey, SamplingParams
from learnsgl.engine.logit_rules import LogitRules
from learnsgl.scheduler.executor import Admission
from tests.engine.driver import int32

VOCAB_SIZE = 24
EOS = (3, 4)
MAX_LEN = 20

PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "frequency_penalty": st.sampled_from([-2.0, 0.5, 1.25]),
        "presence_penalty": st.sampled_from([-1.0, 2.0]),
        "repetition_penalty": st.sampled_from([0.5, 1.3, 100.0]),
        "logit_bias": st.dictionaries(
            st.integers(0, VOCAB_SIZE - 1), st.sampled_from([-100.0, 0.5, 100.0]), max_size=4
        ),
        "min_tokens": st.integers(0, 6),
        "stop_token_ids": st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=3).map(tuple),
        "ignore_eos": st.booleans(),
    },
)
TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=8)
ROWS = st.tuples(PARAMS, TOKENS, st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=8))
"""Parameters, prompt and answer so far."""


def naive(logits: torch.Tensor, params: SamplingParams, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """One token after the other, as `SamplingParams` says it."""
    result = logits.double().clone()
    for token in range(VOCAB_SIZE):
        value = result[token] + params.logit_bias.get(token, 0.0)
        if token in prompt + answer:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        value = value - params.frequency_penalty * answer.count(token)
        value = value - params.presence_penalty * (token in answer)
        ends = {*params.stop_token_ids, *(() if params.ignore_eos else EOS)}
        result[token] = -torch.inf if len(answer) < params.min_tokens and token in ends else value
    return result


def applied(rows: list[tuple[dict[str, Any], list[int], list[int]]], order: list[int], logits: torch.Tensor) -> Any:
    """The rules of table rows `order`, for logits in the same order; row 7 - i holds case i."""
    pool = torch.randint(0, VOCAB_SIZE, (8, MAX_LEN), dtype=torch.int32)  # what other requests left there
    rules = LogitRules(num_rows=8, eos_ids=EOS, token_pool=pool)
    for case, (params, prompt, answer) in enumerate(rows):
        row = 7 - case
        old = SamplingParams(frequency_penalty=2.0, logit_bias={1: 5.0}, min_tokens=9)
        rules.admit(Admission(ReqKey(99), row, int32([1]), old, int32([])))
        rules.admit(Admission(ReqKey(case), row, int32(prompt), SamplingParams(**params), int32([])))
        pool[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer, dtype=torch.int32)
    positions = np.array([len(rows[case][1]) + len(rows[case][2]) for case in order], dtype=np.int64)
    return rules.apply(logits[order].clone(), int32([7 - case for case in order]), positions)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=6), seed=st.integers(0, 3))
def test_each_row_as_its_definition_says_whoever_is_beside_it(rows: list[Any], seed: int) -> None:
    logits = 4 * torch.randn(len(rows), VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))
    together = applied(rows, list(range(len(rows))), logits)
    for case, (params, prompt, answer) in enumerate(rows):
        expected = naive(logits[case], SamplingParams(**params), prompt, answer)
        torch.testing.assert_close(together[case].double(), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(applied(rows, [case], logits)[0], together[case])
    backwards = applied(rows, list(range(len(rows)))[::-1], logits)
    assert torch.equal(backwards.flip(0), together)


def test_logits_without_rules_are_left_alone() -> None:
    rules = LogitRules(num_rows=2, eos_ids=EOS, token_pool=torch.zeros(2, MAX_LEN, dtype=torch.int32))
    rules.admit(Admission(ReqKey(1), 0, int32([1, 2]), SamplingParams(temperature=0.5, top_k=3), int32([])))
    logits = torch.zeros(1, VOCAB_SIZE, dtype=torch.bfloat16)
    assert rules.apply(logits, int32([0]), np.array([2])) is logits


def test_half_precision_is_penalised_in_full() -> None:
    pool = torch.zeros(1, MAX_LEN, dtype=torch.int32)
    rules = LogitRules(num_rows=1, eos_ids=EOS, token_pool=pool)
    rules.admit(Admission(ReqKey(1), 0, int32([5]), SamplingParams(frequency_penalty=0.001), int32([])))
    logits = torch.full((1, VOCAB_SIZE), 100.0, dtype=torch.bfloat16)
    changed = rules.apply(logits, int32([0]), np.array([4]))  # three times token 0
    assert changed.dtype == torch.float32
    assert changed[0, 0] < changed[0, 1]
