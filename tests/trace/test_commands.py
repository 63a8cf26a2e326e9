"""`learnsgl trace ...` on a recorded run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from learnsgl.config import Config, TraceConfig
from learnsgl.errors import FolderError, LearnsglError, OptionError, TraceViolation
from learnsgl.trace import events as ev
from learnsgl.trace.commands import add_trace_command
from learnsgl.trace.manifest import create_run
from learnsgl.trace.recorder import open_recorder
from learnsgl.trace.show import table
from tests.trace.story import UID, tell, write


def learnsgl(*words: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="learnsgl")
    add_trace_command(parser.add_subparsers())
    args = parser.parse_args(["trace", *map(str, words)])
    code: int = args.run(args)
    return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "runs", tell())


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_ls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "broken.trace.zip").write_bytes(b"x")
    assert learnsgl("ls", folder.parent) == 0
    head, broken, line = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "started (UTC) model level seconds processes events bytes state run"
    assert "broken  broken.trace.zip: " in broken
    assert line.split()[2:6] == ["smollm2-135m", "full", "0.0", "4"]
    assert line.endswith(f"ended   {folder.name}")
    assert learnsgl("ls", folder) == 0
    assert folder.name in capsys.readouterr().out


def test_ls_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learnsgl("ls", tmp_path) == 0
    assert f"record one with: learnsgl serve --trace {tmp_path}" in capsys.readouterr().out
    with pytest.raises(FolderError, match="no such folder"):
        learnsgl("ls", tmp_path / "gone")


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learnsgl("info", folder) == 0
    text = capsys.readouterr().out
    for words in ("level full, 57 events", "command   learnsgl serve", "        2  sched.step", "1:received"):
        assert words in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["scheduler-0"][1:4] == ["scheduler", "102", "23"]
    assert rows["scheduler-0"][-1] == "whole"
    assert rows[str(UID)][1:5] == ["length", "3", "0", "2"]


def test_cat_prints_json_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learnsgl("cat", folder) == 0
    lines = json_lines(capsys.readouterr().out)
    assert len(lines) == 57
    assert lines[-1] == {"process": "api", "event": 19, "kind": "process.ended", "ns": 700}
    (allocated, _) = [line for line in lines if line["kind"] == "page.allocated"]
    assert allocated["pages"] == [0, 1, 2]
    (finished,) = [line for line in lines if line["kind"] == "req.finished"]
    assert (finished["uids"], finished["reasons"], finished["num_tokens"]) == ([UID], ["length"], [2])


def test_cat_chooses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learnsgl("cat", folder.parent, "--kind", "sched.step", "--kind", "req", "--process", "scheduler-0") == 0
    output = capsys.readouterr()
    assert [line["kind"] for line in json_lines(output.out)] == [
        "req.queued", "sched.step", "sched.step", "req.finished", "req.released",
    ]  # fmt: skip
    assert f"the newest run in {folder.parent}: {folder.name}" in output.err
    assert learnsgl("cat", folder, "--uid", str(UID), "--kind", "msg.") == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert learnsgl("cat", folder, "--uid", "8") == 0
    assert capsys.readouterr().out == ""


def test_cat_names_what_there_is_to_choose(folder: Path) -> None:
    with pytest.raises(OptionError, match="--process is 'x'; the trace has: api, tokenizer-0"):
        learnsgl("cat", folder, "--process", "x")
    with pytest.raises(OptionError, match=r"give a kind such as sched\.step, or a family: batch, cache"):
        learnsgl("cat", folder, "--kind", "sch")


def test_cat_follows_until_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = create_run(tmp_path, Config().to_json(), ["learnsgl"])
    recorder = open_recorder(folder, TraceConfig(), "api", "api")
    reader = threading.Thread(target=learnsgl, args=("cat", folder, "--follow"))
    reader.start()
    recorder.emit(ev.ProcessServing(recorder.now(), "localhost", 8000))
    recorder.close()
    reader.join(20)
    assert not reader.is_alive()
    assert [line["event"] for line in json_lines(capsys.readouterr().out)] == [1, 2, 3, 4]


def test_a_packed_file_can_t_be_followed_further(folder: Path, tmp_path: Path) -> None:
    (folder / "api.1.trace").write_bytes((folder / "api.1.trace").read_bytes()[:-10])
    learnsgl("pack", folder, tmp_path / "x.trace.zip")
    assert learnsgl("cat", tmp_path / "x.trace.zip", "--follow") == 0


def test_info_of_many_requests_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = tell()
    story["api"][8:8] = [ev.HttpReceived(101, uid, "/v1/completions", False, 5) for uid in range(100, 160)]
    assert learnsgl("info", write(tmp_path, story)) == 0
    assert "and 11 more; all their endings: learnsgl trace cat" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["cat"], ["export", "--format", "jsonl", "--out", "-"]], ids=["cat", "export"])
def test_a_closed_pipe_ends_a_command_quietly(tmp_path: Path, command: list[str]) -> None:
    folder = create_run(tmp_path, Config().to_json(), ["learnsgl"])
    recorder = open_recorder(folder, TraceConfig(), "api", "api")
    for place in range(5000):
        recorder.emit(ev.ProcessPhase(recorder.now(), f"phase {place}", 0))
    recorder.close()
    words = [sys.executable, "-m", "learnsgl", "trace", command[0], str(folder), *command[1:]]
    root = Path(__file__).parents[2]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 100)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learnsgl("verify", folder) == 0
    assert f"verified: {folder} (level full)" in capsys.readouterr().out
    (folder / "detokenizer.1.trace").unlink()
    with pytest.raises(TraceViolation, match=r"scheduler-0, event 13 \(msg.sent\): .* never received"):
        learnsgl("verify", folder)
    assert TraceViolation.exit_code == 5


def test_pack_and_unpack(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "first.trace.zip"
    assert learnsgl("pack", folder.parent, file) == 0
    assert "57 events in" in capsys.readouterr().out
    assert learnsgl("verify", file) == 0
    assert learnsgl("unpack", file, tmp_path / "back") == 0
    assert learnsgl("verify", tmp_path / "back") == 0
    with pytest.raises(LearnsglError, match="exists already"):
        learnsgl("unpack", file, tmp_path / "back")


def test_a_table_is_aligned() -> None:
    assert table([("name", "n"), ("a", "1"), ("long", "1,000"), ("b", "-")]) == (
        "name      n\na         1\nlong  1,000\nb         -"
    )
