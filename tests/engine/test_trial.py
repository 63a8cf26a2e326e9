"""The largest step there can be, and what is read off the memory when it has run."""

from __future__ import annotations

import pytest

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.loading import load_model_runner
from learnsgl.engine.memory import describe_memory
from learnsgl.engine.trial import MemoryUse, Trial, libraries_of, run_trial, workspace_of
from learnsgl.scheduler.prefill import MAX_LOGPROB_TOKENS
from tests.engine.conftest import MakeModel


def trial(rows: int, chunk: int, length: int, page_size: int = 16) -> Trial:
    scheduler = SchedulerConfig(max_running_requests=rows, max_prefill_length=chunk)
    return Trial.of(scheduler, max_model_len=length, page_size=page_size)


@pytest.mark.parametrize(
    ("rows", "chunk", "length", "tokens"),
    [(4, 100, 512, 104), (4, 100, 30, 104), (4, 100, 10, 36), (1, 1, 2, 1), (64, 512, 4096, 576)],
)
def test_it_is_as_large_as_a_step_can_be(rows: int, chunk: int, length: int, tokens: int) -> None:
    prefill, decode, *others = trial(rows, chunk, length).steps()
    assert prefill.num_tokens == tokens
    assert len(prefill.rows) == len(decode.rows) == decode.num_tokens == rows
    assert int(prefill.lens.max()) < length
    assert len(prefill.new_pages) == int(prefill.page_counts.sum())
    assert prefill.num_prompt_logits is not None
    assert prefill.num_prompt_logits.sum() == min(MAX_LOGPROB_TOKENS, tokens - rows)
    assert set(decode.starts.tolist()) == {length - 1}
    assert all(int((step.starts + step.lens).max()) <= length for step in others)


def test_every_kind_of_step_is_there() -> None:
    steps = list(trial(4, 100, 512).steps())
    kinds = [step.admitted[0].sampling for step in steps if step.admitted]
    assert any(kind.is_greedy and not kind.has_penalties for kind in kinds)
    assert {(step.lens > 1).any() for step in steps if (step.lens == 1).any()} == {True, False}
    contexts = {(int(step.starts.max()), bool((step.lens > 1).any())) for step in steps if not step.admitted}
    assert contexts == {(511, False), (511, True), (1, False), (1, True)}


def test_a_context_of_one_token_has_no_decode_step() -> None:
    assert len(list(trial(2, 8, 1).steps())) == 1


def test_contexts_that_attention_copies_stay_short() -> None:
    scheduler = SchedulerConfig(max_running_requests=4, max_prefill_length=100)
    steps = Trial.of(scheduler, max_model_len=4096, page_size=1, is_copying=True).steps()
    assert max(int((step.starts + step.lens).max()) for step in steps) == 102


@pytest.mark.parametrize(("rows", "length"), [(3, 40), (1, 40), (2, 1), (2, 2)])
def test_it_runs(rows: int, length: int, small_model: MakeModel) -> None:
    scheduler = SchedulerConfig(max_running_requests=rows, max_prefill_length=30)
    config = EngineConfig(device="cpu", num_threads=1, num_pages=200, page_size=4)
    runner = load_model_runner(small_model("gqa")[0], "small", config, scheduler).runner
    run_trial(runner, Trial.of(scheduler, max_model_len=length, page_size=4))
    assert runner.tables.num_pages.tolist() == [0] * rows
    assert not runner.tables.page_table.any()


def test_the_workspace_is_the_peak_and_libraries_what_was_taken_beside_torch() -> None:
    before = MemoryUse(used=1000, reserved=600, peak_reserved=600)
    after = MemoryUse(used=1350, reserved=700, peak_reserved=900)
    # torch once held 300 more, 40 of them for tables; and 250 of the 350 that are used now aren't torch's
    assert workspace_of(before, after, made_bytes=40) == 260
    assert libraries_of(before, after) == 250
    assert workspace_of(before, before, made_bytes=40) == libraries_of(before, before) == 0


def test_where_memory_went_is_one_line() -> None:
    memory = {"weights": 5 << 20, "kv_pages": 4 << 20, "graphs": 3 << 20, "buffers": 0, "page": 1 << 10}
    text = describe_memory({**memory, "available_before": 20 << 30, "available_after": (20 << 30) - (12 << 20)})
    assert text == (
        "memory: weights 5.0 MiB, KV pages 4.0 MiB, graphs 3.0 MiB, buffers 0 bytes; these are 12.0 MiB, 12.0 MiB "
        "are gone, 20.0 GiB are left"
    )
