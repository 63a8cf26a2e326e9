"""Log-probabilities of the engine beside PyTorch's `log_softmax` of logits that were computed without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import MAX_TOP_LOGPROBS, SamplingParams
from learnsgl.engine.engine import Engine, create_engine
from learnsgl.engine.logprobs import normalised
from learnsgl.scheduler.executor import Step, StepResult
from tests.engine.conftest import MakeModel
from tests.engine.driver import StepBuilder, int32
from tests.engine.reference import reference_logits

PROMPT = [(7 * k) % 200 for k in range(1, 41)]


@pytest.fixture
def engine(small_model: MakeModel) -> Iterator[Engine]:
    config = EngineConfig(device="cpu", num_threads=1, num_pages=256)
    engine = create_engine(small_model("gqa")[0], "small", config, SchedulerConfig(max_running_requests=8))
    yield engine
    engine.close()


@pytest.fixture
def expected(small_model: MakeModel) -> torch.Tensor:
    """Log-probabilities of every token at each place of PROMPT and after it, float64 [40, V]."""
    return reference_logits(small_model("gqa")[1], PROMPT).double().log_softmax(-1)


def run(engine: Engine, step: Step) -> StepResult:
    ticket = engine.submit(step)
    engine.sample(ticket, None)
    return engine.collect(ticket)


@pytest.mark.parametrize("chunks", [[40], [1, 39], [16, 16, 8], [39, 1]])
def test_a_prompts_log_probabilities_in_any_chunks(engine: Engine, expected: torch.Tensor, chunks: list[int]) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, [5, 6, 7])
    builder.admit(1, PROMPT, SamplingParams(temperature=0.0, prompt_logprobs=3))
    values: list[float] = []
    first = 0
    for chunk in chunks:
        is_last = first + chunk == len(PROMPT)
        step = builder.build([(0, 3 if first == 0 else 1), (1, chunk)], wants=[True, is_last])
        num = chunk - is_last
        result = run(engine, dataclasses.replace(step, num_prompt_logits=int32([0, num]) if num else None))
        assert len(result.tokens) == 1 + is_last
        for part in result.prompt_logprobs:
            assert (part.row, part.start) == (1, first + 1)
            assert part.values.top_ids[:, 0].tolist() == expected[first : first + num].argmax(-1).tolist()
            assert part.values.top_ids.shape == (num, MAX_TOP_LOGPROBS)
            values += part.values.logprobs.tolist()
        first += chunk
    assert values == pytest.approx([float(expected[k, PROMPT[k + 1]]) for k in range(39)], abs=1e-4)
    assert int(result.tokens[1]) == int(expected[39].argmax())


def test_a_tokens_log_probability_is_the_models_own(engine: Engine, expected: torch.Tensor) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT, SamplingParams(temperature=0.0, logit_bias={99: 100.0}, logprobs=2))
    builder.admit(1, PROMPT)
    builder.admit(2, PROMPT, SamplingParams(temperature=5.0, seed=1, logprobs=0))
    result = run(engine, builder.build([(0, 40), (1, 40), (2, 40)]))
    assert result.tokens[0] == 99, "the bias decides"
    assert result.logprob_places is not None
    assert result.logprobs is not None
    assert result.logprob_places.tolist() == [0, 2]
    last = expected[39]
    wanted = [float(last[99]), float(last[result.tokens[2]])]
    assert result.logprobs.logprobs.tolist() == pytest.approx(wanted, abs=1e-4)
    assert result.logprobs.top_ids[0, 0] == result.tokens[1] == int(last.argmax())
    without = run(engine, builder.build([(1, 1)]))
    assert (without.logprobs, without.prompt_logprobs) == (None, ())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 3), st.booleans())
def test_values_are_those_of_log_softmax_whoever_is_beside_them(n: int, seed: int, half: bool) -> None:
    logits = 5 * torch.randn(n, 300, generator=torch.Generator().manual_seed(seed))
    logits = logits.bfloat16() if half else logits
    tokens = torch.arange(n) * 7
    found = normalised(logits).of(tokens, with_top=True)
    expected = logits.double().log_softmax(-1)
    np.testing.assert_allclose(found.logprobs, expected[torch.arange(n), tokens], atol=1e-5)
    np.testing.assert_allclose(found.top_logprobs, expected.topk(MAX_TOP_LOGPROBS).values, atol=1e-5)
    for row in range(n):
        alone = normalised(logits[row : row + 1]).of(tokens[row : row + 1], with_top=True)
        np.testing.assert_allclose(alone.logprobs[0], found.logprobs[row], rtol=1e-6)
        assert alone.top_ids[0].tolist() == found.top_ids[row].tolist()


def test_small_vocabularies_have_fewer_likeliest_tokens() -> None:
    found = normalised(torch.zeros(2, 5)).of(torch.tensor([0, 1]), with_top=True)
    assert found.top_ids.shape == (2, 5)
    assert normalised(torch.zeros(2, 5)).of(torch.tensor([0, 1]), with_top=False).top_ids.shape == (2, 0)
