"""Parquet and JSON lines: every event, the tables that are put together from them, and their documented columns."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnsgl.errors import FolderError
from learnsgl.export import export_trace
from learnsgl.export.tables import TABLES
from learnsgl.trace import events as ev
from learnsgl.trace.lives import requests
from learnsgl.trace.manifest import read_manifest
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import to_json
from tests.export.recordings import ANSWER, PROMPT, ROOT, SORTS
from tests.trace.story import UID


def tables(trace: Trace, folder: Path, **options: bool) -> dict[str, pa.Table]:
    num_bytes = export_trace(trace, "parquet", folder, **options)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == sorted(f"{name}.parquet" for name in TABLES)
    assert sum(file.stat().st_size for file in files) == num_bytes
    return {name: pq.read_table(folder / f"{name}.parquet") for name in TABLES}


def test_every_event_is_in_the_table_and_whole(trace: Trace, tmp_path: Path) -> None:
    rows = tables(trace, tmp_path / "out")["events"].to_pylist()
    assert len(rows) == trace.num_events
    for row, entry in zip(rows, trace.events(), strict=True):
        if entry.event.LEVEL != "tokens":
            common = {name: row[name] for name in ("step", "uid", "choice", "start_ns") if row[name] is not None}
            told = {"process": row["process"], "event": row["number"], "kind": row["kind"], "ns": row["ns"], **common}
            wanted = {name: value for name, value in to_json(entry).items() if value is not None or name not in row}
            fields = json.loads(row["fields"])
            assert told | fields == wanted | {name: None for name in fields if fields[name] is None}


def test_tables_agree_with_each_other(trace: Trace, tmp_path: Path) -> None:
    told = tables(trace, tmp_path / "out")
    kinds = told["events"].column("kind").to_pylist()
    steps, runs = told["steps"].to_pylist(), told["runs"].to_pylist()
    assert len(steps) == kinds.count("sched.step")
    assert told["pages"].num_rows == kinds.count("sched.step")
    assert sum(step["num_tokens"] for step in steps) == sum(run["num_tokens"] for run in runs)
    assert sum(step["num_prefill"] for step in steps) == sum(run["is_prefill"] for run in runs)
    received = [row for row in told["messages"].to_pylist() if row["received_ns"] is not None]
    assert len(received) == kinds.count("msg.received")
    assert len(told["requests"]) == len(requests(trace))


def test_the_story_in_tables(story: Trace, tmp_path: Path) -> None:
    told = tables(story, tmp_path / "out")
    (request,) = told["requests"].to_pylist()
    assert request["uid"] == UID
    assert (request["reason"], request["prompt_tokens"], request["generated_tokens"]) == ("length", 3, 2)
    assert (request["received_ns"], request["first_token_ns"], request["over_ns"]) == (100, 250, 401)
    first, second = told["steps"].to_pylist()
    assert (first["kind"], first["num_tokens"], first["num_kept"]) == ("prefill", 3, 1)
    assert (second["kind"], second["forward_start_ns"], second["sample_end_ns"]) == ("decode", 295, 335)
    message = told["messages"].to_pylist()[0]
    assert (message["sender"], message["receiver"], message["kinds"]) == ("api", "tokenizer-0", "TokenizeMsg")
    assert (message["sent_ns"], message["received_ns"], message["uids"]) == (110, 120, [UID])
    assert [row["num_free"] for row in told["pages"].to_pylist()] == [13, 12]
    assert [row["num_own"] for row in told["pages"].to_pylist()] == [3, 4]


def test_pages_add_up(scheduled: Trace, tmp_path: Path) -> None:
    told = tables(scheduled, tmp_path / "out")
    for row in told["pages"].to_pylist():
        parts = [row[name] for name in ("num_free", "num_evictable", "num_locked", "num_own")]
        assert sum(parts) == 64
        assert min(parts) >= 0
    changes = told["cache"].column("change").to_pylist()
    assert set(changes) == {"inserted", "split", "evicted", "locked", "unlocked", "touched", "moved"}
    evicted = [entry.event for entry in scheduled.events() if isinstance(entry.event, ev.CacheEvicted)]
    rows = [row for row in told["cache"].to_pylist() if row["change"] == "evicted"]
    assert sum(row["num_pages"] for row in rows) == sum(len(event.pages) // 4 for event in evicted) > 0


def test_columns_tell_their_meanings_and_files_their_run(story: Trace, tmp_path: Path) -> None:
    tables(story, tmp_path / "out")
    file = pq.ParquetFile(tmp_path / "out" / "steps.parquet")
    fields = file.schema_arrow
    assert [(field.name, field.metadata[b"meaning"].decode()) for field in fields] == [
        (column.name, column.meaning) for column in TABLES["steps"]
    ]
    assert json.loads(fields.metadata[b"learnsgl.run_id"]) == story.manifest["run_id"]
    assert read_manifest(story.path)["clock"] in json.loads(fields.metadata[b"learnsgl.clock"])
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_page_has_every_column() -> None:
    page = (ROOT / "docs" / "exports.md").read_text("utf-8")
    for name, columns in TABLES.items():
        section = page.partition(f"### `{name}`")[2].partition("\n##")[0]
        documented = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
        told = [tuple(cell.strip(" `") for cell in cells) for cells in documented]
        assert told == [tuple(column) for column in columns], f"bring docs/exports.md up to date: {name}"


def test_only_tables_are_replaced(story: Trace, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    tables(story, folder)
    with pytest.raises(FolderError, match="exists already"):
        export_trace(story, "parquet", folder)
    (folder / "mine.txt").write_text("kept")
    export_trace(story, "parquet", folder, force=True)
    assert (folder / "mine.txt").read_text() == "kept"
    with pytest.raises(FolderError, match="is a file"):
        export_trace(story, "parquet", folder / "mine.txt", force=True)


def test_text_is_in_the_tables_only_where_it_is_asked_for(spoken: Trace, tmp_path: Path) -> None:
    for with_text in (False, True):
        table = tables(spoken, tmp_path / str(with_text), with_text=with_text)["events"]
        told = "".join(table.column("fields").to_pylist())
        assert all((word in told) == with_text for word in (PROMPT, *ANSWER))


def lines_of(trace: Trace, path: Path, **options: bool) -> list[dict[str, object]]:
    num_bytes = export_trace(trace, "jsonl", path, **options)
    assert num_bytes == path.stat().st_size
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().splitlines()]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_lines_are_those_of_cat(trace: Trace, tmp_path: Path, name: str) -> None:
    lines = lines_of(trace, tmp_path / name)
    assert lines == [
        json.loads(json.dumps(to_json(entry))) if entry.event.LEVEL != "tokens" else line
        for line, entry in zip(lines, trace.events(), strict=True)
    ]


def test_lines_hold_text_only_where_it_is_asked_for(spoken: Trace, tmp_path: Path) -> None:
    (line,) = [line for line in lines_of(spoken, tmp_path / "a.jsonl") if line["kind"] == "tok.text"]
    assert line == {"process": "tokenizer-0", "event": 5, "kind": "tok.text", "ns": 131, "uid": UID}
    (line,) = [line for line in lines_of(spoken, tmp_path / "b.jsonl", with_text=True) if line["kind"] == "tok.text"]
    assert (line["text"], line["token_ids"]) == (PROMPT, [5, 6, 7])


def test_gzip_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    trace = Trace.open(SORTS["whole"](tmp_path / "runs"))
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        export_trace(trace, "jsonl", tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
