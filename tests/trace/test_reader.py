"""Reading: every process's order is kept, nothing outside the folder is opened, broken places are named."""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from pathlib import Path

import msgspec
import pytest
import zstandard

from learnsgl.config import Config, TraceConfig
from learnsgl.errors import FolderError, TraceFormatError
from learnsgl.trace.frames import HEADER, FrameKind, encode_frame
from learnsgl.trace.manifest import create_run
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import open_recorder
from learnsgl.trace.segments import Identity, SegmentWriter
from learnsgl.trace.source import find_runs
from tests.trace.story import tell, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, tell())


def raw_trace(folder: Path, payload: bytes, num_events: int) -> Trace:
    writer = SegmentWriter(folder, Identity("run", "p", "api", 1, "full"), 1 << 20, 0)
    writer.write(payload, 1, num_events, 5)
    writer.close()
    return Trace.open(folder)


def test_a_process_s_events_come_by_number_and_all_events_by_time(folder: Path) -> None:
    trace, story = Trace.open(folder), tell()
    assert trace.processes == ("api", "tokenizer-0", "scheduler-0", "detokenizer")
    for name in trace.processes:
        entries = list(trace.events(name))
        assert [entry.event for entry in entries] == story[name]
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    merged = list(trace.events())
    assert [entry.event.ns for entry in merged] == sorted(entry.event.ns for entry in merged)
    assert len(merged) == trace.num_events == sum(map(len, story.values()))
    assert trace.span_ns() == (5, 700)
    assert trace.level == "full"
    assert not any(trace.is_cut(name) for name in trace.processes)


def test_a_process_s_own_order_outweighs_its_moments(tmp_path: Path) -> None:
    story = tell()
    story["scheduler-0"][4].ns = 10_000
    entries = Trace.open(write(tmp_path, story)).events()
    numbers = [entry.number for entry in entries if entry.process == "scheduler-0"]
    assert numbers == sorted(numbers)


def test_reading_can_begin_anywhere(folder: Path) -> None:
    trace = Trace.open(folder)
    for start in (1, 4, 5, 23, 24):
        assert [entry.number for entry in trace.events("scheduler-0", start=start)] == list(range(start, 24))


def test_the_index_knows_frames_without_decoding_them(folder: Path) -> None:
    index = Trace.open(folder).process("detokenizer")
    assert [(frame.header.first, frame.header.last) for frame in index.frames] == [(1, 4), (5, 8), (9, 9)]
    assert [frame.header.first_ns for frame in index.frames] == [5, 260 + 2, 570]
    assert (index.first, index.last, index.num_events, index.fact("role")) == (1, 9, 9, "detokenizer")
    assert index.clock is not None


def test_the_list_of_frames_is_made_once(folder: Path) -> None:
    """`verify` asks at every event: with a list made anew each time, a soak's recording took hours."""
    index = Trace.open(folder).process("scheduler-0")
    assert index.frames is index.frames
    assert index.last == index.frames[-1].header.last
    assert index.first == 1


def test_an_unknown_process_is_named(folder: Path) -> None:
    with pytest.raises(KeyError, match="no process 'x' in the trace; there are: api, tokenizer-0"):
        Trace.open(folder).process("x")


def test_kinds_and_fields_of_a_newer_version_are_skipped_and_counted(tmp_path: Path) -> None:
    payload = msgspec.msgpack.encode(
        [["cache.touched", 5, 1, 2, "a new field"], ["cache.dreamt", 6, 1], ["process.ended", 7]]
    )
    trace = raw_trace(tmp_path, payload, 3)
    assert [(entry.number, entry.kind) for entry in trace.events()] == [(1, "cache.touched"), (3, "process.ended")]
    assert trace.unknown == {"cache.dreamt": 1}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (msgspec.msgpack.encode([["cache.touched", "five", 1, 2]]), "an event can't be decoded"),
        (msgspec.msgpack.encode([5]), "an array that begins with a kind"),
        (msgspec.msgpack.encode([]), "holds 0 events, its header says 1"),
        (b"\xc1", "an event can't be decoded"),
    ],
)
def test_a_frame_that_holds_something_else_is_named(tmp_path: Path, payload: bytes, message: str) -> None:
    trace = raw_trace(tmp_path, payload, 1)
    with pytest.raises(TraceFormatError, match=rf"p.1.trace, byte \d+: .*{message}"):
        list(trace.events())


def test_damage_in_the_middle_is_named_after_all_before_it(folder: Path) -> None:
    frame = Trace.open(folder).process("api").frames[2]
    path = folder / frame.file
    data = bytearray(path.read_bytes())
    data[frame.offset + HEADER.size + 3] ^= 1
    path.write_bytes(data)
    entries = Trace.open(folder).events("api")
    assert [entry.number for entry in itertools.islice(entries, 8)] == list(range(1, 9))
    with pytest.raises(TraceFormatError, match=rf"api.1.trace, byte {frame.offset}: the frame's payload is damaged"):
        next(entries)


def test_a_trace_that_is_being_written_can_be_read(tmp_path: Path) -> None:
    folder = create_run(tmp_path, Config().to_json(), ["learnsgl"])
    recorder = open_recorder(folder, TraceConfig(), "api", "api")
    assert Trace.open(folder).is_cut("api")
    before = Trace.open(folder)
    recorder.close()
    assert before.num_events == 2
    assert len(list(before.events())) == 2
    assert not Trace.open(folder).is_cut("api")


def test_a_file_that_the_size_limit_removes_meanwhile_is_named(folder: Path) -> None:
    trace = Trace.open(folder)
    (folder / "api.1.trace").unlink()
    with pytest.raises(TraceFormatError, match=r"api.1.trace: is gone: .* Read the trace again"):
        list(trace.events())


def test_of_a_folder_of_runs_the_newest_is_taken(tmp_path: Path) -> None:
    runs = [write(tmp_path, {}) for _ in range(3)]
    for run, started in zip(runs, ("2026-03-01", "2026-05-01", "2026-04-01"), strict=True):
        (run / "manifest.json").write_text(json.dumps({"started": started}))
    (tmp_path / "other").mkdir()
    assert Trace.open(tmp_path).path == runs[1]
    assert find_runs(tmp_path) == [runs[0], runs[2], runs[1]]


def test_links_and_other_names_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (folder / "api.1.trace").rename(secret)
    (folder / "api.1.trace").symlink_to(secret)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to(secret)
    (folder / "api.01.trace").write_bytes(b"x")
    (folder / "..trace").write_bytes(b"x")
    os.mkfifo(folder / "pipe.1.trace")
    trace = Trace.open(folder)
    assert trace.processes == ("tokenizer-0", "scheduler-0", "detokenizer")
    assert trace.manifest == {}


def test_a_file_under_another_name_is_refused(folder: Path) -> None:
    (folder / "api.1.trace").rename(folder / "apj.1.trace")
    with pytest.raises(TraceFormatError, match="the header says segment 1 of api; was the file renamed"):
        Trace.open(folder)


@pytest.mark.parametrize(
    ("header", "message"),
    [(b"[]", "isn't that of a trace"), (b'{"format": "x"}', "isn't that of a trace"), (b"{", "isn't JSON")],
)
def test_a_file_s_header_is_checked(tmp_path: Path, header: bytes, message: str) -> None:
    frame = encode_frame(FrameKind.SEGMENT, header, 1, 0, 0, zstandard.ZstdCompressor())
    (tmp_path / "p.1.trace").write_bytes(frame)
    with pytest.raises(TraceFormatError, match=rf"byte 0: .*{message}"):
        Trace.open(tmp_path)


def test_what_is_no_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no such file or folder"):
        Trace.open(tmp_path / "gone")
    with pytest.raises(TraceFormatError, match=r"no trace: neither manifest\.json"):
        Trace.open(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(TraceFormatError, match="not a packed trace"):
        Trace.open(tmp_path / "text")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(TraceFormatError, match=r"manifest.json: holds list, expected a JSON object"):
        Trace.open(tmp_path)


def test_a_packed_file_that_holds_a_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("manifest.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("manifest.json", "{}")
    with pytest.raises(TraceFormatError, match="two files of the same name"):
        Trace.open(tmp_path / "x.zip")
