"""Packing: the same events in one small file, and nothing of the machine in it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from learnsgl.config import Config, TraceConfig
from learnsgl.errors import FolderError, TraceFormatError
from learnsgl.trace import events as ev
from learnsgl.trace.manifest import create_run
from learnsgl.trace.pack import pack, unpack, without_paths
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import open_recorder
from learnsgl.trace.verify import verify
from tests.trace.story import tell, write


def test_a_packed_trace_reads_and_verifies_as_the_folder_does(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", tell(), frame_events=1)
    file = pack(folder, tmp_path / "one.trace.zip")
    packed, trace = Trace.open(file), Trace.open(folder)
    assert list(packed.events()) == list(trace.events())
    assert packed.processes == trace.processes
    assert len(packed.process("scheduler-0").frames) == 1
    assert len(trace.process("scheduler-0").frames) == 23
    assert verify(packed).proved == verify(trace).proved
    assert packed.manifest["run_id"] == trace.manifest["run_id"]
    assert [entry.number for entry in packed.events("api", start=10)] == list(range(10, 20))


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", tell())
    assert pack(folder, tmp_path / "a").read_bytes() == pack(folder, tmp_path / "b").read_bytes()


def test_unpacking_gives_a_folder_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", tell())
    back = unpack(pack(folder, tmp_path / "one.trace.zip"), tmp_path / "back")
    assert list(Trace.open(back).events()) == list(Trace.open(folder).events())
    again = pack(back, tmp_path / "two.trace.zip")
    assert again.read_bytes() == (tmp_path / "one.trace.zip").read_bytes()
    with pytest.raises(FolderError, match="exists already"):
        unpack(again, back)


def test_gaps_and_cuts_stay_what_they_are(tmp_path: Path) -> None:
    folder = create_run(tmp_path, Config().to_json(), ["learnsgl"])
    recorder = open_recorder(folder, TraceConfig(trace_segment_bytes=4096), "api", "api")
    for _ in range(50):
        recorder.emit(ev.ProcessPhase(recorder.now(), os.urandom(100).hex(), 0))
        recorder.flush()
    os.truncate(folder / "api.3.trace", (folder / "api.3.trace").stat().st_size - 10)
    (folder / "api.1.trace").unlink()
    trace, packed = Trace.open(folder), Trace.open(pack(folder, tmp_path / "x"))
    assert [entry.number for entry in packed.events()] == [entry.number for entry in trace.events()]
    assert packed.begins_late("api")
    assert packed.is_cut("api")
    assert len(packed.process("api").segments) == len(trace.process("api").segments)
    recorder.close()


def test_the_manifest_tells_no_paths(tmp_path: Path) -> None:
    config = Config().with_values({"trace": tmp_path / "runs"}).to_json()
    command = [str(tmp_path / "bin" / "learnsgl"), f"--trace={tmp_path}/runs", "--model", "org/model"]
    folder = create_run(tmp_path / "runs", config, command)
    with zipfile.ZipFile(pack(folder, tmp_path / "x")) as packed:
        text = packed.read("manifest.json").decode()
    assert str(tmp_path) not in text
    assert json.loads(text)["command"] == ["learnsgl", "--trace=runs", "--model", "org/model"]


def test_paths_are_cut_to_their_last_part() -> None:
    given = {"a": ["/usr/my files/learnsgl", "--x=/a/b/c", "http://a/b/c", "a/b/c", 5, None, True]}
    assert without_paths(given) == {"a": ["learnsgl", "--x=c", "http://a/b/c", "a/b/c", 5, None, True]}


def test_names_in_a_packed_file_are_not_paths(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", tell())
    file = pack(folder, tmp_path / "x.trace.zip")
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr("../evil.1.trace", b"x")
        packed.writestr("/evil", b"x")
    unpack(file, tmp_path / "deep" / "out")
    assert sorted(path.name for path in (tmp_path / "deep").rglob("*") if "evil" in path.name) == []
    assert not (tmp_path / "deep" / "evil.1.trace").exists()


def test_what_can_t_be_packed_or_unpacked_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", tell())
    with pytest.raises(FolderError, match="can't be written"):
        pack(folder, tmp_path / "gone" / "x")
    with zipfile.ZipFile(tmp_path / "empty", "w"):
        pass
    with pytest.raises(TraceFormatError, match="holds no events"):
        unpack(tmp_path / "empty", tmp_path / "out")
