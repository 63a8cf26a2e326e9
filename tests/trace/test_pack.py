"""Packing: the same events in one small file, and nothing of the machine in it."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from pathlib import Path

import msgspec
import pytest

from learnsgl.config import Config, TraceConfig, TraceLevel
from learnsgl.errors import FolderError, TraceFormatError, TraceViolation
from learnsgl.trace import events as ev
from learnsgl.trace.commands import add_trace_command
from learnsgl.trace.manifest import create_run
from learnsgl.trace.pack import pack, unpack, without_paths
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import open_recorder
from learnsgl.trace.show import describe, to_json
from learnsgl.trace.text import TextRemover, is_text_removed
from learnsgl.trace.verify import verify
from tests.trace.story import UID, C, Story, U, at_level, i4, tell, write


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


SECRET = "a secret prompt"


def with_text() -> Story:
    """The story at level `tokens`."""
    story = at_level(tell(), TraceLevel.TOKENS)
    story["tokenizer-0"].insert(4, ev.TokText(131, UID, SECRET, i4(11, 22, 33)))
    story["detokenizer"].insert(4, ev.DetokText(261, 1, U, C, i4(44), ["a secret"]))
    story["detokenizer"].insert(8, ev.DetokText(361, 2, U, C, i4(55), [" answer"]))
    return story


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return write(tmp_path / "runs", with_text(), TraceLevel.TOKENS)


def of_text(trace: Trace) -> list[ev.Event]:
    return [entry.event for entry in trace.events() if isinstance(entry.event, ev.TokText | ev.DetokText)]


def test_text_is_removed_and_every_event_keeps_its_place(told: Path, tmp_path: Path) -> None:
    trace, packed = Trace.open(told), Trace.open(pack(told, tmp_path / "one.trace.zip"))
    assert of_text(packed) == [
        ev.TokText(131, UID, "", i4(-1, -1, -1)),
        ev.DetokText(261, 1, U, C, i4(-1), [""]),
        ev.DetokText(361, 2, U, C, i4(-1), [""]),
    ]
    pairs = list(zip(trace.events(), packed.events(), strict=True))
    assert all(before[:2] == after[:2] for before, after in pairs)
    kept = [(before, after) for before, after in pairs if type(before.event).LEVEL is not TraceLevel.TOKENS]
    assert all(before == after for before, after in kept)
    assert "secret" not in json.dumps([to_json(entry) for entry in packed.events()])
    assert is_text_removed(packed)
    assert not is_text_removed(trace)
    assert packed.manifest["text"] == "removed"
    assert "level tokens (its text was removed)" in describe(packed)


def test_a_file_without_its_text_verifies_and_says_so(told: Path, tmp_path: Path) -> None:
    report = verify(Trace.open(pack(told, tmp_path / "one.trace.zip")))
    assert report.is_whole
    (line,) = [line for line in report.proved if line.startswith("level")]
    assert line == (
        "level     tokens, packed without text: 3 events of prompts and answers are empty, so no text and no token ids"
    )
    (line,) = [line for line in verify(Trace.open(told)).proved if line.startswith("level")]
    assert "prompts and answers are in this trace" in line


def test_text_is_kept_when_it_is_asked_for(told: Path, tmp_path: Path) -> None:
    packed = Trace.open(pack(told, tmp_path / "one.trace.zip", with_text=True))
    assert of_text(packed) == of_text(Trace.open(told))
    assert not is_text_removed(packed)
    assert "text" not in packed.manifest


def test_the_command_removes_text_unless_it_is_told_not_to(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> str:
        parser = argparse.ArgumentParser()
        add_trace_command(parser.add_subparsers())
        args = parser.parse_args(["trace", "pack", *words])
        assert args.run(args) == 0
        return capsys.readouterr().out.strip().partition("; ")[2]

    assert run(str(told), str(tmp_path / "a")) == "without the text of prompts and answers"
    assert run(str(told), str(tmp_path / "b"), "--with-text") == "it holds prompts and answers"
    assert run(str(tmp_path / "a"), str(tmp_path / "c"), "--with-text") == "without the text of prompts and answers"
    assert [is_text_removed(Trace.open(tmp_path / name)) for name in "abc"] == [True, False, True]
    assert run(str(write(tmp_path / "other", tell())), str(tmp_path / "d")) == ""


def test_text_once_removed_stays_removed(told: Path, tmp_path: Path) -> None:
    first = pack(told, tmp_path / "one.trace.zip")
    back = unpack(first, tmp_path / "back")
    assert list(Trace.open(back).events()) == list(Trace.open(first).events())
    again = pack(back, tmp_path / "two.trace.zip")
    assert again.read_bytes() == first.read_bytes()
    asked = Trace.open(pack(back, tmp_path / "three.trace.zip", with_text=True))
    assert is_text_removed(asked)
    assert verify(asked).is_whole


def test_text_in_a_file_that_claims_to_have_none_is_a_violation(told: Path, tmp_path: Path) -> None:
    clean, full = pack(told, tmp_path / "clean"), pack(told, tmp_path / "full", with_text=True)
    liar = tmp_path / "liar.trace.zip"
    with zipfile.ZipFile(clean) as left, zipfile.ZipFile(full) as right, zipfile.ZipFile(liar, "w") as target:
        for name in left.namelist():
            target.writestr(name, (right if name == "detokenizer.1.trace" else left).read(name))
    with pytest.raises(TraceViolation, match=r"detokenizer, event 5 \(detok.text\): holds text or token ids, and the"):
        verify(Trace.open(liar))


def test_a_cut_trace_loses_its_text_too(tmp_path: Path) -> None:
    story = with_text()
    story["api"][-2] = ev.ProcessLost(600, "detokenizer", 103, -9)
    told = write(tmp_path / "runs", story, TraceLevel.TOKENS)
    os.truncate(told / "detokenizer.1.trace", (told / "detokenizer.1.trace").stat().st_size - 10)
    packed = Trace.open(pack(told, tmp_path / "x"))
    assert packed.is_cut("detokenizer")
    assert "secret" not in json.dumps([to_json(entry) for entry in packed.events()])
    assert [note for note in verify(packed).notes if note.startswith("detokenizer: the recording stops")]


def test_text_below_level_tokens_is_removed_too(tmp_path: Path) -> None:
    """Such a trace is wrong, and `verify` says so; but whoever packs it doesn't send prompts away."""
    packed = Trace.open(pack(write(tmp_path / "runs", with_text()), tmp_path / "x"))
    assert "secret" not in json.dumps([to_json(entry) for entry in packed.events()])
    with pytest.raises(TraceViolation, match="is of level tokens, and the trace is of level full"):
        verify(packed)


TOLD = {"level": "tokens", "fields": [{"name": name} for name in ("ns", "uid", "ids", "words", "more", "num")]}
OLD = {"level": "full", "fields": [{"name": "ns"}, {"name": "text"}]}


@pytest.mark.parametrize(
    ("event", "left"),
    [
        (["new.told", 1, 7, b"\1\2", ["a", "b"], {"a": 1}, 3], ["new.told", 1, 7, b"\xff\xff", ["", ""], {}, -1]),
        (["new.told", 1, 7, b"", [], {}, None, "a field that is newer"], ["new.told", 1, 7, b"", [], {}, None, ""]),
        (["new.old", 1, "x"], ["new.old", 1, "x"]),
        (["process.ended", 5], ["process.ended", 5]),
        (["tok.text", 1, 7, "a", b"\1\0\0\0", True, 0.5], ["tok.text", 1, 7, "", b"\xff" * 4, False, 0.0]),
    ],
)
def test_kinds_of_a_newer_version_are_cleaned_by_their_description(event: list[object], left: list[object]) -> None:
    remover = TextRemover({"level": "tokens", "kinds": {"new.told": TOLD, "new.old": OLD, "tok.text": OLD}}, "x")
    cleaned = remover.remove(msgspec.Raw(msgspec.msgpack.encode(event)), "x")
    assert msgspec.msgpack.decode(cleaned) == left


@pytest.mark.parametrize("event", [["new.kind", 1, "text"], [], "text", 5, [5, "text"], [["text"]]])
def test_what_nobody_describes_is_not_sent(event: object) -> None:
    with pytest.raises(TraceFormatError, match=r"x, byte 5: an event of the kind .* pack it --with-text"):
        TextRemover({"level": "tokens"}, "x").remove(msgspec.Raw(msgspec.msgpack.encode(event)), "x, byte 5")


@pytest.mark.parametrize("kinds", [["tok.text"], {"a": 1}, {"a": {"level": "tokens"}}, {"a": {"fields": []}}])
def test_a_registry_that_is_none_is_named(kinds: object) -> None:
    with pytest.raises(TraceFormatError, match="x: the header doesn't describe its kinds of events"):
        TextRemover({"level": "tokens", "kinds": kinds}, "x")
