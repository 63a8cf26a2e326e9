"""`learnsgl trace export`: where it writes, what it refuses, and what it says of recordings that aren't whole."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from learnsgl.errors import FolderError, OptionError, StartupError, TraceFormatError, TraceViolation
from learnsgl.export import ExportFormat, export_trace, notes_of
from learnsgl.export import formats as formats_module
from learnsgl.trace import events as ev
from learnsgl.trace.commands import EXPORT_FORMATS, add_trace_command
from learnsgl.trace.frames import HEADER
from learnsgl.trace.reader import Trace
from tests.export.recordings import ROOT, SORTS, packed, spoken
from tests.trace.story import i4, i8, tell, write

FORMATS = list(ExportFormat)


def learnsgl(*words: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="learnsgl")
    add_trace_command(parser.add_subparsers())
    args = parser.parse_args(["trace", "export", *map(str, words)])
    code: int = args.run(args)
    return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "runs", tell())


def test_the_command_offers_every_format() -> None:
    assert tuple(ExportFormat) == EXPORT_FORMATS


@pytest.mark.parametrize(
    ("format", "suffix"),
    [
        ("perfetto", ".pftrace"), ("chrome", ".chrome.json"), ("otlp", ".otlp.pb"), ("parquet", ".parquet"),
        ("jsonl", ".jsonl"),
    ],
)  # fmt: skip
def test_an_export_goes_beside_the_recording(
    folder: Path, format: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.with_name(folder.name + suffix)
    assert learnsgl(folder, "--format", format) == 0
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    said = capsys.readouterr()
    assert said.out == f"{path}: 57 events as {format}, {size:,} bytes\n"
    assert said.err == ""
    with pytest.raises(FolderError, match=r"exists already; .* --force"):
        learnsgl(folder, "--format", format)
    assert learnsgl(folder, "--format", format, "--force") == 0
    assert not list(folder.parent.rglob("*.part"))


def test_a_packed_file_s_name_loses_its_ending(tmp_path: Path) -> None:
    assert learnsgl(packed(tmp_path), "--format", "otlp", "--json") == 0
    assert json.loads((tmp_path / "story.otlp.json").read_text("utf-8"))["resourceSpans"]


@pytest.mark.parametrize("words", [["chrome"], ["jsonl"], ["otlp", "--json"]])
def test_text_goes_to_the_standard_output(folder: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "learnsgl", "trace", "export", str(folder), "--out", "-", "--format", *words]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    stream = io.BytesIO()
    export_trace(Trace.open(folder), words[0], stream, as_json="--json" in words)
    assert result.stdout == stream.getvalue()


@pytest.mark.parametrize("format", ["perfetto", "otlp", "parquet"])
def test_bytes_do_not_go_to_a_terminal(folder: Path, format: str) -> None:
    with pytest.raises(OptionError, match=f"{format} isn't text"):
        learnsgl(folder, "--format", format, "--out", "-")


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    words = [sys.executable, "-m", "learnsgl", "trace", "export", str(folder), "--format", "jsonl", "--out", "-"]
    command = f"{shlex.join(words)} | head -c 10"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=True)
    assert result.stdout == b'{"process"'
    assert result.stderr == b""


@pytest.mark.parametrize("format", FORMATS)
def test_options_that_contradict_each_other_are_refused(folder: Path, format: ExportFormat) -> None:
    with pytest.raises(OptionError, match="of level full, which holds none; record with --trace-level tokens"):
        learnsgl(folder, "--format", format, "--with-text")
    if format is not ExportFormat.OTLP:
        with pytest.raises(OptionError, match="only otlp has two forms"):
            learnsgl(folder, "--format", format, "--json")


def test_in_python_too(folder: Path) -> None:
    trace = Trace.open(folder)
    with pytest.raises(OptionError, match="the format is 'svg'; choose from: perfetto, chrome, otlp, parquet, jsonl"):
        export_trace(trace, "svg", folder.parent / "x.svg")
    with pytest.raises(OptionError, match="a folder of tables"):
        export_trace(trace, "parquet", io.BytesIO())
    told: list[tuple[int, int]] = []
    path = str(folder.parent / "a.jsonl")
    assert export_trace(trace, "jsonl", path, progress=lambda *each: told.append(each)) > 0
    assert told[-1] == (trace.num_events, trace.num_events)


@pytest.mark.parametrize("format", FORMATS)
def test_a_place_that_can_t_be_written_is_named(folder: Path, format: ExportFormat) -> None:
    (folder.parent / "file").write_text("")
    with pytest.raises(FolderError, match=r"can't be written|is a file"):
        export_trace(Trace.open(folder), format, folder.parent / "file" / "x")


def test_a_folder_is_no_file(folder: Path) -> None:
    with pytest.raises(FolderError, match="is a folder; name a file"):
        export_trace(Trace.open(folder), "chrome", folder, force=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_broken_frame_is_named_and_nothing_is_left(folder: Path, format: ExportFormat) -> None:
    file = folder / "scheduler-0.1.trace"
    frame = Trace.open(folder).process("scheduler-0").frames[2]
    data = bytearray(file.read_bytes())
    data[frame.offset + HEADER.size + 3] ^= 0xFF
    file.write_bytes(data)
    out = folder.parent / "out" / "x"
    out.parent.mkdir()
    with pytest.raises(TraceFormatError, match=r"scheduler-0.1.trace, byte \d+"):
        export_trace(Trace.open(folder), format, out)
    assert not list(out.parent.iterdir())


MALFORMED = {
    "half a number": ev.SchedStep(181, 1, 179, i8(7)[:-3], i4(0), i4(0), i4(3), 1, 0, 13),
    "arrays of two lengths": ev.SchedAdmitted(181, 1, i8(7, 8), i4(0, 0), i4(0), i4(0), i8(0), i4(5)),
}


UNREAD = {(ExportFormat.OTLP, "half a number"), (ExportFormat.JSONL, "arrays of two lengths")}
"""Spans need no steps; lines tell what is there, and put nothing together."""


@pytest.mark.parametrize(
    ("format", "name"), [(format, name) for format in FORMATS for name in MALFORMED if (format, name) not in UNREAD]
)
def test_an_event_that_contradicts_itself_is_named(tmp_path: Path, format: ExportFormat, name: str) -> None:
    story = tell()
    story["scheduler-0"].insert(9, MALFORMED[name])
    out = tmp_path / "out" / "x"
    out.parent.mkdir()
    with pytest.raises(TraceViolation, match=r"scheduler-0, event 10 \(sched\.\w+\): .* belong together"):
        export_trace(Trace.open(write(tmp_path, story)), format, out)
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(
    ("sort", "notes"),
    [
        ("whole", []),
        ("nothing", ["the trace holds no events"]),
        ("cut", ["api: the recording is cut off", "tokenizer-0:", "scheduler-0:", "detokenizer:"]),
        ("late", ["scheduler-0: its first events are missing; the recording begins at event"]),
        ("steps", ["level steps: no messages"]),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, sort: str, notes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = SORTS[sort](tmp_path / "runs")
    told = notes_of(Trace.open(path))
    assert [note[: len(wanted)] for note, wanted in zip(told, notes, strict=True)] == notes
    assert learnsgl(path, "--format", "chrome", "--out", tmp_path / "x.json") == 0
    assert capsys.readouterr().err == "".join(f"note: {note}\n" for note in told)
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["metadata"]["notes"] == told


def test_kinds_of_a_newer_version_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class ApiNew(ev.Event, tag="api.new"):
        """A kind that only a newer version knows."""

    story = tell()
    story["api"].insert(3, ApiNew(25))
    folder = write(tmp_path, story)
    assert learnsgl(folder, "--format", "jsonl") == 0
    assert "1 events are of kinds that this version doesn't know: api.new" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["perfetto", "otlp", "parquet"])
def test_a_library_that_is_missing_is_named(folder: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(formats_module, "find_spec", find_nothing)
    with pytest.raises(StartupError, match=rf"the format {format} needs \S+: pip install 'learnsgl\[export\]'"):
        export_trace(Trace.open(folder), format, folder.parent / "x")
    for free in ("chrome", "jsonl"):
        assert export_trace(Trace.open(folder), free, folder.parent / free) > 0


def test_text_goes_out_only_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = SORTS["tokens"](tmp_path)
    assert any(isinstance(event, ev.TokText) for event in spoken()["tokenizer-0"])
    assert learnsgl(folder, "--format", "jsonl", "--out", tmp_path / "a") == 0
    assert learnsgl(folder, "--format", "jsonl", "--out", tmp_path / "b", "--with-text") == 0
    assert ["secret" in (tmp_path / name).read_text("utf-8") for name in "ab"] == [False, True]


def test_the_room_loads_no_torch_and_the_server_not_the_room() -> None:
    program = (
        "import sys, importlib, pathlib, learnsgl.server.launch, learnsgl.scheduler.worker, learnsgl.trace.commands\n"
        "assert not any(name.startswith('learnsgl.export') for name in sys.modules), 'the server loads it'\n"
        "for file in sorted(pathlib.Path('learnsgl/export').glob('*.py')):\n"
        "    importlib.import_module(f'learnsgl.export.{file.stem}'.removesuffix('.__init__'))\n"
        "print([name for name in ('torch', 'matplotlib', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
