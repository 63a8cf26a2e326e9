"""The largest step there can be, and what is read off the memory when it has run."""

from __future__ import annotations

import pytest

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.loading import load_model_runner
from learnsgl.engine.memory import describe_memory
from learnsgl.engine.trial import MemoryUse, make_trial, run_trial, workspace_of
from learnsgl.scheduler.prefill import MAX_LOGPROB_TOKENS
from tests.engine.conftest import MakeModel


@pytest.mark.parametrize(
    ("rows", "chunk", "length", "tokens"),
    [(4, 100, 512, 104), (4, 100, 30, 104), (4, 100, 10, 36), (1, 1, 2, 1), (64, 512, 4096, 576)],
)
def test_it_is_as_large_as_a_step_can_be(rows: int, chunk: int, length: int, tokens: int) -> None:
    scheduler = SchedulerConfig(max_running_requests=rows, max_prefill_length=chunk)
    trial = make_trial(scheduler, max_model_len=length, page_size=16)
    assert trial.prefill.num_tokens == tokens
    assert len(trial.prefill.rows) == rows
    assert int(trial.prefill.lens.max()) < length
    assert trial.num_pages == len(trial.prefill.new_pages) == int(trial.prefill.page_counts.sum())
    assert trial.prefill.num_prompt_logits is not None
    assert trial.prefill.num_prompt_logits.sum() == min(MAX_LOGPROB_TOKENS, tokens - rows)
    assert trial.decode is not None
    assert trial.decode.num_tokens == rows


def test_a_context_of_one_token_has_no_decode_step() -> None:
    scheduler = SchedulerConfig(max_running_requests=2, max_prefill_length=8)
    trial = make_trial(scheduler, max_model_len=1, page_size=1)
    assert trial.decode is None
    assert len(trial.all) == 1


def test_it_runs(small_model: MakeModel) -> None:
    scheduler = SchedulerConfig(max_running_requests=3, max_prefill_length=40)
    config = EngineConfig(device="cpu", num_threads=1, num_pages=200)
    runner = load_model_runner(small_model("gqa")[0], "small", config, scheduler).runner
    run_trial(runner, make_trial(scheduler, max_model_len=runner.max_model_len, page_size=1).all)
    assert len(runner.prompt_logprobs) == 0  # the decode step came last
    assert runner.tables.num_pages.tolist() == [0, 0, 0]


def test_the_workspace_is_the_peak_and_what_was_taken_beside_torch() -> None:
    before = MemoryUse(used=1000, reserved=600, peak_reserved=600)
    after = MemoryUse(used=1350, reserved=700, peak_reserved=900)
    # torch once held 300 more, 40 of them for tables; and 250 of the 350 that are used now aren't torch's
    assert workspace_of(before, after, tables_bytes=40) == 260 + 250
    assert workspace_of(before, before, tables_bytes=40) == 0


def test_where_memory_went_is_one_line() -> None:
    memory = {"weights": 5 << 20, "kv_pages": 4 << 20, "workspace": 1 << 20, "graphs": 3 << 20, "buffers": 0}
    text = describe_memory({**memory, "available_before": 20 << 20, "available_after": 6 << 20})
    assert text == (
        "GPU memory: weights 5.0 MiB, kv pages 4.0 MiB, workspace 1.0 MiB, graphs 3.0 MiB, buffers 0.0 MiB; "
        "14.0 MiB in all, 6.0 MiB are left"
    )
