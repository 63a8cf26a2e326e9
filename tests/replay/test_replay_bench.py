"""`learnsgl bench replay`: the recordings that it makes are whole, and entering them never takes too many events."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from learnsgl.bench import replay
from learnsgl.bench.recorded_load import RecordedLoad, Shape
from learnsgl.bench.replay_tables import replay_tables
from learnsgl.bench.replay_task import TASKS, run_task
from learnsgl.errors import OptionError, ServingError
from learnsgl.replay.replay import Replay
from learnsgl.trace import keyframe
from learnsgl.trace.events import TraceKeyframe
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify

SHAPE = Shape(num_running=6, num_nodes=40, prompt_len=40, output_len=12, page_size=4)


def test_a_recording_is_whole_and_like_its_shape(tmp_path: Path) -> None:
    load = RecordedLoad(tmp_path, SHAPE)
    load.record(6000)
    trace = Trace.open(load.folder)
    assert trace.num_events >= 6000
    report = verify(trace)
    assert report.is_whole
    assert trace.processes == ("api", "tokenizer-0", "scheduler-0", "detokenizer")
    middle = Replay(trace).at(step=200)
    assert len(middle.running or ()) == SHAPE.num_running
    assert SHAPE.num_nodes / 2 < len(middle.tree or ()) < SHAPE.num_nodes * 2
    assert middle.messages == ()


def test_keyframes_are_never_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyframe, "SHARE", 10**9)  # by their share alone, there would be one
    monkeypatch.setattr(keyframe, "MAX_EVENTS", 1000)
    load = RecordedLoad(tmp_path, SHAPE)
    load.record(12_000)
    slices = [entry for entry in Trace.open(load.folder).events("scheduler-0") if type(entry.event) is TraceKeyframe]
    starts = [entry.number for entry in slices if entry.event.index == 0]  # type: ignore[attr-defined]
    assert len(starts) >= 5
    gaps = [after - before for before, after in itertools.pairwise([1, *starts])]
    assert all(1000 <= gap < 1100 for gap in gaps[1:-1]), gaps
    assert gaps[-1] < 1100, "the last one is written at the end"


def test_every_task_takes_its_time(tmp_path: Path) -> None:
    load = RecordedLoad(tmp_path, SHAPE)
    load.record(1500)
    for task in [*TASKS, "export-jsonl"]:
        measured = run_task(task, load.folder, 2)
        assert measured.task == task
        assert min(measured.took_s) > 0
        assert measured.peak_bytes >= measured.start_bytes > 0
        assert (measured.file_bytes > 0) == (task == "export-jsonl")


def test_results_become_tables() -> None:
    measured = [
        {"task": "open", "took_s": [0.5, 2.5], "start_bytes": 1_000_000, "peak_bytes": 9_000_000},
        {"task": "export-chrome", "took_s": [2.0], "start_bytes": 1_000_000, "peak_bytes": 9_000_000,
         "file_bytes": 4_000_000},
    ]  # fmt: skip
    length = {"num_events": 1000, "num_bytes": 50_000, "num_nodes": 7, "num_keyframes": 3, "measured": measured}
    recordings, times, exports = replay_tables(msgspec.convert([length], list[replay.Length]))
    assert recordings.rows == [["1,000", "0.1", "50.0", "3", "7"]]
    assert times.rows == [["1,000", "open it", "500.0", "2,500.0", "2,000", "missed", "9"]]
    assert exports.rows == [["1,000", "chrome", "2.00", "500", "4.0", "9"]]


def test_what_can_t_be_measured_is_said(tmp_path: Path) -> None:
    settings = replay.Settings([10], 1, 2, 5, 32, 4, 1, [])
    with pytest.raises(OptionError, match=r"--input-len is 32; .* so give at least 33"):
        replay.measure(settings, lambda text: None)
    with pytest.raises(ServingError, match=r"the task open ended with exit code 1: .*gone"):
        replay._in_a_process("open", tmp_path / "gone", 1)
