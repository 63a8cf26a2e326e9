"""The recorder: cheap where nothing is recorded, complete where it is, and harmless when the disk is not there."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from learnsgl.config import Config, TraceConfig, TraceLevel
from learnsgl.trace import events as ev
from learnsgl.trace import recorder as recorder_module
from learnsgl.trace.frames import HEADER
from learnsgl.trace.manifest import create_run
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import FRAME_EVENTS, MAX_PENDING_EVENTS, MemoryRecorder, Recorder, open_recorder
from learnsgl.trace.verify import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return create_run(tmp_path, Config().to_json(), ["learnsgl", "serve"])


def opened(folder: Path, name: str = "tokenizer-0", **options: object) -> Recorder:
    return open_recorder(folder, TraceConfig(trace=folder, **options), name, "tokenizer")  # type: ignore[arg-type]


def numbers(folder: Path, name: str = "tokenizer-0") -> list[int]:
    return [entry.number for entry in Trace.open(folder).events(name)]


def phase(place: int, text: str = "x") -> ev.ProcessPhase:
    return ev.ProcessPhase(Recorder.now(), f"{text}{place}", 0)


@pytest.mark.parametrize(
    ("level", "switches"),
    [("off", (0, 0, 0)), ("steps", (1, 0, 0)), ("full", (1, 1, 0)), ("tokens", (1, 1, 1))],
)
def test_a_level_holds_those_before_it(level: str, switches: tuple[int, int, int]) -> None:
    recorder = Recorder(TraceLevel(level))
    assert (recorder.steps, recorder.full, recorder.tokens) == switches


def test_off_writes_nothing(folder: Path) -> None:
    for recorder in (opened(folder, trace_level=TraceLevel.OFF), open_recorder(None, TraceConfig(), "api", "api")):
        assert not recorder.steps
        recorder.emit(phase(1))
        recorder.flush_if_due()
        recorder.close()
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_the_first_and_last_events_are_the_recorder_s_own(folder: Path) -> None:
    recorder = opened(folder)
    recorder.close()
    recorder.close()
    recorder.emit(phase(1))
    recorder.flush()
    first, second, last = (entry.event for entry in Trace.open(folder).events())
    assert isinstance(first, ev.ProcessStarted)
    assert (first.name, first.pid, first.parent_pid) == ("tokenizer-0", os.getpid(), os.getppid())
    assert isinstance(second, ev.TraceBegin)
    assert (second.level, second.late) == ("full", False)
    assert isinstance(last, ev.ProcessEnded)


def test_events_wait_until_there_are_enough_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FRAME_NS", 1 << 62)
    recorder = opened(folder)
    for place in range(FRAME_EVENTS - 1):
        recorder.emit(phase(place))
        recorder.flush_if_due()
    assert numbers(folder) == [1, 2]
    recorder.emit(phase(0))
    recorder.flush_if_due()
    assert len(numbers(folder)) == 2 + FRAME_EVENTS
    monkeypatch.setattr(recorder_module, "FRAME_NS", 0)
    recorder.emit(phase(0))
    recorder.flush_if_due()
    assert len(numbers(folder)) == 3 + FRAME_EVENTS
    recorder.close()


def test_a_process_that_never_waits_still_writes(folder: Path) -> None:
    recorder = opened(folder)
    for place in range(MAX_PENDING_EVENTS):
        recorder.emit(phase(place))
    assert len(numbers(folder)) == 2 + MAX_PENDING_EVENTS
    assert recorder.num_events == 2 + MAX_PENDING_EVENTS
    recorder.close()


def test_numpy_s_scalars_are_numbers_and_anything_else_is_a_mistake(folder: Path) -> None:
    recorder = opened(folder)
    recorder.emit(ev.CacheTouched(1, np.int64(2), np.int32(3)))  # type: ignore[arg-type]
    recorder.flush()
    assert [entry.event for entry in Trace.open(folder).events("tokenizer-0", start=3)] == [ev.CacheTouched(1, 2, 3)]
    recorder.emit(ev.CacheTouched(1, object(), 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give plain numbers"):
        recorder.flush()


WRITER = """
import sys
from pathlib import Path
from learnsgl.config import TraceConfig
from learnsgl.trace.events import ProcessPhase
from learnsgl.trace.recorder import open_recorder

recorder = open_recorder(Path(sys.argv[1]), TraceConfig(trace_segment_bytes=20_000), "tokenizer-0", "tokenizer")
while True:
    for place in range(40):
        recorder.emit(ProcessPhase(recorder.now(), f"phase {place} " * 9, 0))
    recorder.flush()
    print(recorder.num_events, flush=True)
"""


def test_a_killed_process_loses_only_what_it_had_not_written(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as child:
        assert child.stdout is not None
        for _ in range(50):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        said = [int(line) for line in child.stdout.read().splitlines() if line]
    trace = Trace.open(folder)
    assert trace.is_cut("tokenizer-0")
    found = numbers(folder)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= (said[-1] if said else 2 + 50 * 40)
    report = verify(trace)
    assert "was killed, or is still running" in "\n".join(report.notes)


def test_a_full_file_is_followed_by_the_next(folder: Path) -> None:
    recorder = opened(folder, trace_segment_bytes=8192)
    assert recorder.segment == 1
    for place in range(300):
        recorder.emit(phase(place, text=os.urandom(100).hex()))
        recorder.flush()
    recorder.close()
    index = Trace.open(folder).process("tokenizer-0")
    assert recorder.segment == 0
    assert len(index.segments) > 5
    sizes = [sum(HEADER.size + f.header.payload_len for f in segment.frames) for segment in index.segments]
    assert all(8192 - 400 < size <= 8192 for size in sizes[:-1])
    assert [segment.header["segment"] for segment in index.segments] == list(range(1, len(index.segments) + 1))
    firsts = [segment.frames[0].header.first for segment in index.segments]
    assert [segment.header["first"] for segment in index.segments] == firsts
    assert numbers(folder) == list(range(1, 304))


YEAR_2100_S = 4_102_444_800


def test_the_oldest_files_go_first_whoever_wrote_them_and_whatever_the_wall_clock_said(folder: Path) -> None:
    options: dict[str, int] = {"trace_segment_bytes": 1 << 20, "trace_max_bytes": 600_000}
    quiet, busy = opened(folder, "tokenizer-0", **options), opened(folder, "tokenizer-1", **options)
    for recorder, start, count in ((quiet, 0, 600), (busy, 600, 4000)):
        for place in range(start, start + count):
            recorder.emit(phase(place, text=os.urandom(100).hex()))
            recorder.flush()
            if recorder is quiet:  # written while the wall clock was decades ahead
                os.utime(
                    max(folder.glob("tokenizer-0.*"), key=lambda path: path.stat().st_ctime_ns), (YEAR_2100_S,) * 2
                )
            assert sum(path.stat().st_size for path in folder.glob("*.trace")) <= 600_000
    quiet.close()
    busy.close()
    trace = Trace.open(folder)
    assert len(trace.process("tokenizer-0").segments) == 1, "its older files were older than the other's"
    assert len(trace.process("tokenizer-1").segments) > 3
    for name in trace.processes:
        first = trace.process(name).first
        assert trace.begins_late(name)
        assert numbers(folder, name) == list(range(first, trace.process(name).last + 1))
    assert len([note for note in verify(trace).notes if "dropped by the limit on size" in note]) == 2


def refuse(fd: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def half(fd: int, data: bytes) -> int:
    return _write(fd, data[: len(data) // 2])


_write = os.write


@pytest.mark.parametrize("broken_write", [refuse, half])
def test_a_full_disk_loses_nothing_while_the_list_holds_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    broken_write: Callable[[int, bytes], int],
) -> None:  # fmt: skip
    monkeypatch.setattr(recorder_module, "RETRY_NS", 0)
    recorder = opened(folder)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "write", broken_write)
        for place in range(100):
            recorder.emit(phase(place))
            recorder.flush()
    assert caplog.text.count("can't be written") == 1
    recorder.close()
    assert numbers(folder) == list(range(1, 104))
    assert verify(Trace.open(folder)).is_whole


def test_a_disk_that_stays_full_costs_events_which_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_NS", 0)
    recorder = opened(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        for place in range(2 * MAX_PENDING_EVENTS + 10):
            recorder.emit(phase(place))
    recorder.close()
    lost = [entry for entry in Trace.open(folder).events() if isinstance(entry.event, ev.TraceDropped)]
    assert len(lost) == 1
    first, last = 3, 2 + 2 * MAX_PENDING_EVENTS
    event = lost[0].event
    assert isinstance(event, ev.TraceDropped)
    assert (lost[0].number, event.first, event.last) == (last + 1, first, last)
    assert event.reason == "No space left on device"
    assert numbers(folder) == [1, 2, *range(last + 1, last + 13)]
    notes = verify(Trace.open(folder)).notes
    assert notes == (f"tokenizer-0: events {first} to {last} were lost (No space left on device)",)


def test_on_a_full_disk_the_end_may_still_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = opened(folder)
    for place in range(20):
        recorder.emit(phase(place, text=os.urandom(100).hex()))
    monkeypatch.setattr(os, "write", lambda fd, data: _write(fd, data) if len(data) < 500 else refuse(fd, data))
    recorder.close()
    assert [(entry.number, entry.kind) for entry in Trace.open(folder).events(start=3)] == [
        (23, "trace.dropped"), (24, "process.ended"),
    ]  # fmt: skip
    assert verify(Trace.open(folder)).notes == ("tokenizer-0: events 3 to 22 were lost (No space left on device)",)


def test_half_a_frame_that_can_t_be_taken_back_is_left_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_NS", 0)
    recorder = opened(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        patch.setattr(os, "ftruncate", lambda fd, length: refuse(fd, b""))
        recorder.emit(phase(1))
        recorder.flush()
    recorder.emit(phase(2))
    recorder.close()
    index = Trace.open(folder).process("tokenizer-0")
    assert [segment.torn_bytes > 0 for segment in index.segments] == [True, False]
    assert numbers(folder) == [1, 2, 3, 4, 5]


def test_a_folder_that_is_gone_doesn_t_stop_the_process(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = opened(folder / "gone")
    recorder.emit(phase(1))
    recorder.close()
    assert "the trace can't be written" in caplog.text
    assert "its last 4 events could not be written" in caplog.text


def test_in_memory_the_events_are_a_list() -> None:
    recorder = MemoryRecorder()
    recorder.emit(ev.CacheTouched(1, 2, 3))
    recorder.flush_if_due()
    assert recorder.full
    assert recorder.events == [ev.CacheTouched(1, 2, 3)]
    assert recorder.num_events == 1
