"""Batches and overlap: what the figures add up is what the events say."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnsgl.errors import TraceError
from learnsgl.replay.history import read_history
from learnsgl.trace import events as ev
from learnsgl.trace.reader import Trace
from learnsgl.viz.batch_composition import MAX_COLUMNS, MAX_TOLD_APART, batch_composition
from learnsgl.viz.overlap_data import handover_window, read_overlap, typical_window
from learnsgl.viz.overlap_lanes import overlap_lanes
from learnsgl.viz.spans import common, joined, length, without
from tests.viz.runs import scheduled, story_of, trace_of, words_of

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair))), max_size=9)


def moments(spans: list[tuple[int, int]]) -> set[int]:
    return {ns for start, end in spans for ns in range(start, end)}


@given(SPANS, SPANS)
def test_spans_are_sets_of_moments(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    a, b = joined(one), joined(other)
    assert moments(a) == moments(one)
    assert length(a) == len(moments(one))
    assert moments(common(a, b)) == moments(one) & moments(other)
    assert moments(without(a, b)) == moments(one) - moments(other)
    for spans in (a, common(a, b), without(a, b)):
        assert all(end > start for start, end in spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_columns_hold_the_tokens_of_their_steps(shared_prefix: Trace) -> None:
    _, data = batch_composition(shared_prefix)
    assert data.steps_per_column == 1
    for column, step in zip(data.columns, read_history(shared_prefix).steps, strict=True):
        assert column.first == column.last == step.number
        assert column.prompt_tokens == {run.uid: run.num_tokens for run in step.chunks}
        assert column.answer_tokens == {run.uid: 1 for run in step.decodes}


def test_the_budget_is_drawn_where_it_is_near(shared_prefix: Trace, first_request: Trace) -> None:
    figure, data = batch_composition(shared_prefix)
    assert data.budget == shared_prefix.manifest["config"]["scheduler"]["max_prefill_length"]
    assert max(sum(column.prompt_tokens.values()) for column in data.columns) <= data.budget
    assert f"budget: at most {data.budget} prompt tokens a step" in words_of(figure)
    figure, data = batch_composition(first_request)
    assert f"the budget, {data.budget} prompt tokens a step, is far above" in words_of(figure)


def test_long_recordings_become_means_that_keep_the_sum(long: Trace) -> None:
    figure, data = batch_composition(long)
    steps = read_history(long).steps
    assert len(data.columns) <= MAX_COLUMNS < len(steps) == data.num_steps
    sizes = [
        min(data.steps_per_column, len(steps) - place * data.steps_per_column) for place in range(len(data.columns))
    ]
    tokens = sum(
        size * (sum(column.prompt_tokens.values()) + sum(column.answer_tokens.values()))
        for size, column in zip(sizes, data.columns, strict=True)
    )
    assert tokens == pytest.approx(sum(run.num_tokens for step in steps for run in step.runs))
    assert f"Each column is the mean of {data.steps_per_column} steps." in words_of(figure)


def test_a_column_of_too_many_requests_has_one_colour(tmp_path: Path) -> None:
    recorded = scheduled(80, num_pages=4000, num_rows=80, max_tokens=3, max_prefill_length=4096)
    figure, data = batch_composition(trace_of(tmp_path, story_of(recorded)))
    assert data.fullest[1] == 80 > MAX_TOLD_APART
    assert f"more than {MAX_TOLD_APART} requests have one colour" in words_of(figure)
    (bars,) = figure.axes[1].collections
    assert len(np.unique(bars.get_facecolor(), axis=0)) == 1


def test_steps_can_be_chosen(shared_prefix: Trace) -> None:
    figure, data = batch_composition(shared_prefix, steps=(40, 60))
    assert (data.columns[0].first, data.columns[-1].last, data.num_steps) == (40, 60, 21)
    num_steps = len(read_history(shared_prefix).steps)
    assert f"21 of the recording's {num_steps} steps are shown" in words_of(figure)
    with pytest.raises(TraceError, match=rf"none of the steps \(5000, 6000\) is in .*, which has 1 to {num_steps}"):
        batch_composition(shared_prefix, steps=(5000, 6000))


def test_time_is_busy_exposed_or_idle(shared_prefix: Trace) -> None:
    data = read_overlap(shared_prefix)
    whole = data.end_ns - data.start_ns
    assert length(data.busy) + length(data.exposed) + length(data.idle) == whole
    assert 0 < data.hidden_share < 1
    assert data.busy_share == length(data.busy) / whole
    kinds = ("schedule", "submit", "commit")
    work = [item for item in data.history.work if item.process == "scheduler-0" and item.kind in kinds]
    assert data.cpu_ns == length(joined((item.start_ns, item.end_ns) for item in work))


def test_without_overlap_the_work_is_exposed(tmp_path: Path) -> None:
    hidden = {
        overlap: read_overlap(
            trace_of(tmp_path / str(overlap), story_of(scheduled(6, overlap=overlap, max_tokens=20)))
        ).hidden_share
        for overlap in (True, False)
    }
    assert hidden[False] < 0.5 < hidden[True]


def test_the_windows_lie_within_the_recording(shared_prefix: Trace) -> None:
    data = read_overlap(shared_prefix)
    window = typical_window(data)
    handover = handover_window(data, window)
    assert handover is not None
    assert data.start_ns <= window[0] < handover[0] < handover[1] < window[1] <= data.end_ns
    shown = [step for step in data.history.steps if step.forward_ns and window[0] <= step.forward_ns[0] < window[1]]
    assert not any(step.chunks for step in shown[:4])


def test_a_single_step_has_no_handover(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, story_of(scheduled(1, max_tokens=1)))
    data = read_overlap(trace)
    assert handover_window(data, typical_window(data)) is None
    figure, _ = overlap_lanes(trace)
    assert len(figure.axes) == 2


def test_without_the_device_nothing_is_said_of_overlap(tmp_path: Path) -> None:
    recorded = [event for event in scheduled(2) if not isinstance(event, ev.EngineForward)]
    with pytest.raises(TraceError, match="no step's time on the device is recorded"):
        overlap_lanes(trace_of(tmp_path, story_of(recorded)))
