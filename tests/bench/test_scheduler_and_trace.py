"""`learnsgl bench scheduler` and `trace`: the load is what it says, and all parts run at small sizes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from learnsgl.bench import scheduler, tracing
from learnsgl.bench.load import SHORT_OUTPUT_LEN, SteadyLoad
from learnsgl.bench.peers.base import PeerSpec
from learnsgl.bench.peers.process import make_peer
from learnsgl.bench.scheduler_tables import scheduler_tables
from learnsgl.bench.tracing_tables import trace_tables
from learnsgl.config import TraceLevel
from learnsgl.hub import resolve_model
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import Recorder
from tests.bench.fake_peer import FakePeer


@pytest.mark.parametrize("page_size", [1, 16])
def test_a_load_of_long_answers_decodes_with_all_requests(page_size: int) -> None:
    steady = SteadyLoad(6, 300, page_size, Recorder(TraceLevel.OFF), num_nodes=100)
    assert 100 <= steady.num_nodes < 100 + 70 + 6
    for _ in range(10):
        reply = steady.step()
        assert reply is not None
        assert len(reply.uids) == 8 * 6
        assert not reply.endings


@pytest.mark.parametrize("page_size", [1, 16])
def test_a_load_of_short_answers_ends_one_and_admits_one_a_step(page_size: int) -> None:
    steady = SteadyLoad(SHORT_OUTPUT_LEN, SHORT_OUTPUT_LEN, page_size, Recorder(TraceLevel.OFF), num_nodes=200)
    num_ended, num_cached = 0, 0
    for _ in range(200):
        reply = steady.step()
        steady.refill()
        for ending in reply.endings if reply else []:
            assert ending.num_generated_tokens == SHORT_OUTPUT_LEN
            num_ended, num_cached = num_ended + 1, num_cached + ending.num_cached_tokens
    assert 150 <= num_ended <= 200
    assert num_cached >= 16 * num_ended * 0.9, "the prompts begin with what is in the tree"
    assert 100 <= steady.num_nodes <= 500, "leaves go as new ones come: two for each request, its prompt and its answer"


def test_every_case_is_timed() -> None:
    settings = scheduler.Settings([1, 3], [5, 50], [1, 4], steps=3, repeats=2)
    found = scheduler.measure(settings, lambda text: None)
    assert len(found) == 2 * 2 + 2 * 2 + 2 * 2
    assert all(len(one.median_us) == 2 and min(one.median_us) > 0 for one in found)
    assert all(one.num_nodes_before >= one.case.num_nodes for one in found)
    again = msgspec.json.decode(msgspec.json.encode(found), type=list[scheduler.CaseTimes])
    batch, tree, churn = scheduler_tables(again)
    assert [row[0] for row in batch.rows] == ["1", "3", "1", "3"]
    assert (len(tree.rows), len(churn.rows)) == (4, 4)


def small() -> tracing.Settings:
    return tracing.Settings(
        running=4, step_ms=0.1, steps=5, pairs=2, blocks=2, events=512, model="tiny-random", dtype="float32",
        num_threads=1, batch=2, input_len=4, output_len=3, seed=0,
    )  # fmt: skip


def test_every_part_of_tracing_is_measured_in_pairs() -> None:
    specs: list[PeerSpec] = []

    def start(spec: PeerSpec) -> FakePeer:
        specs.append(spec)
        return FakePeer(spec)

    results = tracing.measure(small(), lambda text: None, start=start)
    assert [spec.trace is not None for spec in specs] == [False, True]
    for runs in (results.held, results.model):
        assert [(run.number, run.level) for run in runs] == [(1, "off"), (1, "full"), (2, "full"), (2, "off")]
    assert all(len(run.gaps_ms) == 5 for run in results.held)
    again = msgspec.json.decode(msgspec.json.encode(results), type=tracing.TraceResults)
    cost, step, runs = trace_tables(again)
    assert [row[0] for row in cost.rows] == ["`cache.touched`", "`sched.committed`", "`sched.step`"]
    assert len(step.rows) == 5
    assert len(runs.rows) == 6


def test_the_model_records_in_every_second_run_only(tmp_path: Path) -> None:
    resolve_model("tiny-random", progress=False)
    runs = tracing.model_runs(small(), tmp_path, lambda text: None, make_peer)
    assert [(run.number, run.level, len(run.gaps_ms)) for run in runs[:2]] == [(1, "off", 2), (1, "full", 2)]
    (folder,) = tmp_path.iterdir()
    num_requests = sum(entry.kind == "req.queued" for entry in Trace.open(folder).events("llm"))
    assert num_requests == small().batch * (1 + small().pairs)


def test_what_is_timed_as_recording_does_record(tmp_path: Path) -> None:
    with tracing._recorder(TraceLevel.FULL, tmp_path) as recorder:
        steady = SteadyLoad(4, 100, 1, recorder)
        tracing._block(steady, recorder)
    kinds = {entry.kind for entry in Trace.open(tmp_path).events("scheduler-0")}
    assert {"sched.step", "sched.committed", "page.allocated", "engine.forward"} <= kinds


def test_with_recording_off_nothing_is_written(tmp_path: Path) -> None:
    tracing.held_run(small(), TraceLevel.OFF, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []
