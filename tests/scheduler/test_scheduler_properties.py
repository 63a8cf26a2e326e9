"""Random arrivals, aborts, evictions and policies: what must always hold does, and every answer is the right one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.core import FinishReason, ReqKey
from tests.fakes import EOS_ID, expected_output, fake_logprob
from tests.scheduler.harness import Harness

TOKENS = st.integers(1, 4)  # few tokens, so that prefixes are shared often
PROMPTS = st.lists(TOKENS, min_size=1, max_size=24)
STOP_TOKENS = st.sampled_from([(), (), (5,), tuple(range(30, 50))])
LOGPROBS = st.sampled_from([{}, {}, {"logprobs": 2}, {"prompt_logprobs": 0}, {"logprobs": 0, "prompt_logprobs": 1}])
CHOICES = st.sampled_from([1, 1, 1, 2, 5])

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), PROMPTS, st.integers(1, 20), st.booleans(), STOP_TOKENS, CHOICES, LOGPROBS),
        st.tuples(st.just("again"), st.integers(0, 50), st.integers(1, 12), PROMPTS),
        st.tuples(st.just("abort"), st.integers(0, 50)),
        st.tuples(st.just("stop"), st.integers(0, 50)),
        st.tuples(st.just("step"), st.integers(1, 4)),
    ),
    max_size=40,
)

CONFIGS = st.fixed_dictionaries(
    {
        "num_pages": st.sampled_from([12, 24, 64]),
        "page_size": st.sampled_from([1, 2, 4]),
        "num_rows": st.sampled_from([1, 2, 5]),
        "max_prefill_length": st.sampled_from([1, 3, 8, 64]),
        "policy": st.sampled_from(["prefill-first", "mixed"]),
        "max_decode_wait_steps": st.sampled_from([1, 2, 8]),
        "cache_type": st.sampled_from(["radix", "radix", "naive"]),
        "overlap": st.booleans(),
        "prefix_wait_tokens": st.sampled_from([1, 4, 1000]),
    }
)


def apply(harness: Harness, action: tuple) -> None:
    uids = list(harness.prompts)
    match action:
        case ("send", prompt, max_tokens, ignore_eos, stop_token_ids, n, logprobs):
            harness.send(prompt, max_tokens, ignore_eos=ignore_eos, stop_token_ids=stop_token_ids, n=n, **logprobs)
        case ("again", index, max_tokens, more) if uids:  # the next turn of a chat, or the same prompt again
            before = uids[index % len(uids)]
            turn = harness.prompts[before] + harness.outputs.get(before, []) + more[: len(more) // 2]
            harness.send([t for t in turn if t != EOS_ID][:30] or [1], max_tokens)
        case ("abort", index) if uids:
            harness.abort(uids[index % len(uids)])
        case ("stop", index) if uids:
            uid = uids[index % len(uids)]
            harness.abort(uid, stop_after=len(harness.outputs.get(uid, [])))
        case ("step", count):
            for _ in range(count):
                harness.step()


def check_endings(harness: Harness) -> None:
    wanted = {ReqKey(uid, choice) for uid, params in harness.sampling.items() for choice in range(params.n)}
    assert set(harness.choice_endings) == wanted


def check_answers(harness: Harness) -> None:
    limit = harness.executor.info.max_model_len
    for key, ending in harness.choice_endings.items():
        prompt, sampling = harness.prompts[key.uid], harness.sampling[key.uid]
        if ending.reason is FinishReason.ERROR:
            assert len(prompt) >= limit
            assert ending.error.code == "context_length_exceeded"
            continue
        got = harness.choice_outputs[key]
        full = expected_output(prompt, limit - len(prompt), ignore_eos=True)
        assert got == full[: len(got)]
        if ending.reason is FinishReason.STOP and got and got[-1] == EOS_ID:
            assert ending.num_generated_tokens <= len(got)
        ends = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS_ID,))}
        assert not ends & set(got[:-1]), "nothing follows a token that ends the answer"
        if ending.matched is not None:
            assert ending.matched in ends
            assert ending.matched == got[-1]
        elif ending.reason is FinishReason.LENGTH:
            assert got[-1] not in ends


def check_logprobs(harness: Harness) -> None:
    for key, got in harness.choice_outputs.items():
        prompt, params = harness.prompts[key.uid], harness.sampling[key.uid]
        wanted = [(token, np.float32(fake_logprob(token, len(prompt) + i))) for i, token in enumerate(got)]
        assert harness.logprobs.get(key, []) == (wanted if params.logprobs is not None else [])
        of_prompt = harness.prompt_logprobs.get(key, [])
        assert not of_prompt or (params.prompt_logprobs is not None and key.choice == 0)
        assert of_prompt == [np.float32(fake_logprob(prompt[i], i)) for i in range(1, len(of_prompt) + 1)]
        if got and params.prompt_logprobs is not None and key.choice == 0:
            assert len(of_prompt) == len(prompt) - 1
            assert harness.choice_endings[key].num_cached_tokens == 0


def check_all_free(harness: Harness) -> None:
    running = harness.scheduler.running
    in_tree = sum(len(running.cache.facts(node).pages) for node in running.cache.node_ids())
    assert running.allocator.num_free + in_tree == running.allocator.num_pages
    assert running.cache.num_evictable == in_tree
    assert running.table.num_used_rows == 0
    assert running.num_promised == 0


@settings(max_examples=250, deadline=None)
@given(CONFIGS, ACTIONS)
def test_every_request_ends_once_and_rightly(config: dict, actions: list[tuple]) -> None:
    max_model_len = min(32, config["num_pages"] * config["page_size"])
    harness = Harness(max_model_len=max_model_len, **config)
    for action in actions:
        apply(harness, action)
    harness.run()
    check_endings(harness)
    check_answers(harness)
    check_logprobs(harness)
    check_all_free(harness)


@settings(max_examples=40, deadline=None)
@given(CONFIGS, ACTIONS)
def test_the_same_inputs_give_the_same_trace(config: dict, actions: list[tuple]) -> None:
    def record() -> list:
        harness = Harness(max_model_len=min(32, config["num_pages"] * config["page_size"]), **config)
        for action in actions:
            apply(harness, action)
        harness.run()
        # the executor's times come from a real clock; everything else is decided
        return [e for e in harness.recorder.events if type(e).__name__ != "EngineForward"]

    assert record() == record()


@pytest.mark.parametrize("policy", ["prefill-first", "mixed"])
@pytest.mark.parametrize("cache_type", ["radix", "naive"])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_thousand_requests(policy: str, cache_type: str, overlap: bool) -> None:
    import random

    rng = random.Random(7)
    harness = Harness(
        num_pages=96, page_size=2, max_model_len=64, num_rows=8, policy=policy, cache_type=cache_type, overlap=overlap,
        max_prefill_length=16, prefix_wait_tokens=2,
    )  # fmt: skip
    stems = [[rng.randint(1, 9) for _ in range(rng.randint(1, 30))] for _ in range(12)]
    for _ in range(250):
        for _ in range(rng.choice([0, 0, 1, 2, 6])):
            harness.send(rng.choice(stems) + [rng.randint(1, 9) for _ in range(rng.randint(1, 8))], rng.randint(1, 12))
        if rng.random() < 0.2 and harness.prompts:
            harness.abort(rng.choice(list(harness.prompts)))
        for _ in range(rng.randint(1, 5)):
            harness.step()
    harness.run()
    check_endings(harness)
    check_answers(harness)
    check_logprobs(harness)
    check_all_free(harness)
    assert harness.fold.num_digests > 500
    assert harness.fold.num_keyframes > 3
