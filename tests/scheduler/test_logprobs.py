"""Log-probabilities through the scheduler: which steps ask for them, and that each reaches its request."""

from __future__ import annotations

import pytest

from learnsgl.core import ReqKey
from learnsgl.scheduler.prefill import MAX_LOGPROB_TOKENS
from learnsgl.trace import events
from tests.scheduler.harness import Harness


def test_a_cached_prefix_is_not_used_where_each_prompt_token_wants_its_own() -> None:
    harness = Harness(num_pages=256)
    prompt = list(range(1, 31))
    harness.send(prompt, 3, ignore_eos=True)
    harness.run()
    plain = harness.send(prompt, 3, ignore_eos=True)
    wanting = harness.send(prompt, 3, ignore_eos=True, prompt_logprobs=0, n=2)
    harness.run()
    assert harness.endings[plain].num_cached_tokens == 29
    assert harness.endings[wanting].num_cached_tokens == 0
    assert harness.choice_endings[ReqKey(wanting, 1)].num_cached_tokens == 29, "once is enough for all choices"
    assert list(harness.prompt_logprobs) == [ReqKey(wanting, 0)]
    assert len(harness.prompt_logprobs[ReqKey(wanting, 0)]) == 29


@pytest.mark.parametrize("policy", ["prefill-first", "mixed"])
def test_a_step_has_few_tokens_that_each_want_their_logits(policy: str) -> None:
    harness = Harness(num_pages=2048, max_model_len=512, num_rows=8, max_prefill_length=400, policy=policy)
    wanting = [harness.send([k] + [1, 2, 3, 4] * 60, 4, prompt_logprobs=2, ignore_eos=True) for k in range(1, 4)]
    plain = harness.send([9] * 300, 4, ignore_eos=True)
    harness.run()
    for step in harness.executor.steps:
        if step.num_prompt_logits is not None:
            assert 0 < int(step.num_prompt_logits.sum()) <= MAX_LOGPROB_TOKENS
    assert max(step.num_tokens for step in harness.executor.steps) > MAX_LOGPROB_TOKENS, "others aren't held up by that"
    assert all(len(harness.prompt_logprobs[ReqKey(uid)]) == 240 for uid in wanting)
    assert ReqKey(plain) not in harness.prompt_logprobs


def test_steps_without_such_requests_ask_for_nothing() -> None:
    harness = Harness()
    harness.send([1, 2, 3], 5, logprobs=3)
    harness.run()
    assert all(step.num_prompt_logits is None for step in harness.executor.steps)
    assert len(harness.events_of(events.SchedStep)) == len(harness.executor.steps)


def test_a_prompt_of_one_token_has_nothing_to_predict() -> None:
    harness = Harness()
    uid = harness.send([5], 3, prompt_logprobs=0, logprobs=0, ignore_eos=True)
    harness.run()
    assert ReqKey(uid) not in harness.prompt_logprobs
    assert len(harness.logprobs[ReqKey(uid)]) == 3
