"""`learnsgl bench` from the command line to the file, the memory of a real server, and the page."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from learnsgl import cli
from learnsgl.bench.command import BENCHES
from learnsgl.bench.docs import GPU_TABLES, place_of, render
from learnsgl.bench.kernels_tables import KERNELS, kernels_tables
from learnsgl.bench.online.page import page_tables, read_loads
from learnsgl.bench.report import Report, read_report
from learnsgl.bench.run import tables_of
from learnsgl.bench.steps_tables import steps_tables
from learnsgl.errors import FolderError
from tests.bench.test_kernels import RESULTS as KERNEL_RESULTS
from tests.bench.test_steps import made_up

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks"

SMALL = {
    "offline": "--model tiny-random --threads 1 --repeats 1 --batch 1 --input-len 4 --output-len 3 --quantization none "
    "--peers",
    "scheduler": "--running 2 --nodes 5 --page-size 1 --steps 2 --repeats 1",
    "trace": "--model none --running 2 --step-ms 0.1 --steps 3 --pairs 1 --blocks 1 --events 512",
    "memory": "--model tiny-random --repeats 1 --serve-options=--num-threads=1",
    "tracers": "--model tiny-random --threads 1 --tracers learnsgl torch.profiler --repeats 1 --batch 1 --input-len 4 "
    "--output-len 3",
    "steps": "--models tiny-random --dtype float32 --threads 1 --batch 2 --context 16 --steps 8 --prefill-len 32 "
    "--prefill-repeats 1 --no-variants",
    "replay": "--events 2000 --seeks 2 --running 4 --nodes 20 --output-len 8 --formats jsonl",
}


@pytest.mark.parametrize("name", SMALL)
def test_a_bench_prints_its_tables_and_writes_its_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", name, *SMALL[name].split(), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    report = read_report(tmp_path / f"{name}.json")
    assert report.bench == name
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report.date)
    assert report.machine.num_cores >= 1
    assert report.versions["numpy"]
    tables = tables_of(report)
    assert tables
    for table in tables:
        assert f"\n{table.name}\n{table.text()}" in printed
        assert all(len(row) == len(table.heads) for row in table.rows)
    if name == "memory":
        check_memory(report)
    if name == "tracers":
        recorded = {run["tracer"]: run["num_events"] for run in report.results}
        assert recorded.pop("none") == 0
        assert set(recorded) == {"learnsgl", "torch.profiler"}
        assert all(recorded.values())


def check_memory(report: Report) -> None:
    """Every process is there, and torch in one only."""
    (start,) = report.results
    has_torch = {process["name"]: process["has_torch"] for process in start["idle"]}
    assert has_torch == {"api": False, "scheduler-0": True, "tokenizer-0": False, "detokenizer": False}
    assert all(process["uss_bytes"] <= process["rss_bytes"] for process in start["idle"])
    phases = {(phase["process"], phase["phase"]) for phase in start["phases"]}
    assert {("api", "python_and_imports"), ("scheduler-0", "load_weights"), ("scheduler-0", "warm_up")} <= phases


@pytest.mark.parametrize(
    "words",
    [
        ["offline", "--batch", "0"],
        ["scheduler", "--nodes", "many"],
        ["offline", "--input-len", "9:3"],
        ["offline", "--peers", "gpt-fast"],
        ["trace", "--parts", "most"],
        ["steps", "--batch", "0"],
        ["nothing"],
    ],
)
def test_wrong_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *words]) == 2
    assert "learnsgl: error:" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["bench", "scheduler", *SMALL["scheduler"].split(), "--out", str(tmp_path / "file")]) == 2
    assert "scheduler.json can't be written" in capsys.readouterr().err


# ---------------------------------------------------------------- the page


def test_the_page_is_not_stale() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == render(text, RESULTS), "docs/benchmarks.md is stale; write its tables with: learnsgl bench docs"


def test_every_table_of_every_bench_is_on_the_page() -> None:
    shown = set(re.findall(r"<!-- table: ([\w/-]+) -->", PAGE.read_text(encoding="utf-8")))
    reports = [read_report(RESULTS / f"{name}.json") for name in BENCHES]
    of_a_gpu = {place_of(name, table) for name, tables in GPU_TABLES.items() for table in tables}
    of_loads = {f"{name}/{table.name}" for name, report in read_loads(RESULTS).items() for table in page_tables(report)}
    assert {table.name for report in reports for table in tables_of(report)} | of_a_gpu | of_loads == shown


def test_what_a_gpu_gave_fills_its_tables(tmp_path: Path) -> None:
    for name in (*BENCHES, "tried"):
        (tmp_path / f"{name}.json").write_bytes((RESULTS / f"{name}.json").read_bytes())
    page = "<!-- run: gpu/trace -->\n<!-- end -->\n<!-- table: gpu/trace-runs -->\n<!-- end -->"
    assert "\nNot measured yet.\n" in render(page, tmp_path)
    rows = render(page, tmp_path).count("| model |")
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "trace.json").write_bytes((RESULTS / "trace.json").read_bytes())
    filled = render(page, tmp_path)
    assert f"({tmp_path.name}/gpu/trace.json)" in filled
    assert (rows, filled.count("| model |")) == (0, 3)


def test_the_tables_of_a_gpu_are_those_that_its_benchmarks_give() -> None:
    given = {
        "steps": {table.name: table.heads for table in steps_tables(made_up())},
        "kernels": {table.name: table.heads for table in kernels_tables(KERNEL_RESULTS)},
    }
    assert given["steps"] == GPU_TABLES["steps"]
    assert given["kernels"].items() <= GPU_TABLES["kernels"].items()
    assert {f"kernels-{kernel}" for kernel in KERNELS} == set(GPU_TABLES["kernels"])


def test_the_page_tells_what_each_figure_belongs_to() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in BENCHES:
        report = read_report(RESULTS / f"{name}.json")
        assert f"`{report.command}`, {report.date[:10]}" in text
        assert f"(benchmarks/{name}.json)" in text


def test_a_table_that_does_not_exist_is_named(tmp_path: Path) -> None:
    for name in (*BENCHES, "tried"):
        (tmp_path / f"{name}.json").write_bytes((RESULTS / f"{name}.json").read_bytes())
    with pytest.raises(FolderError, match="the page asks for the table 'nonsense'"):
        render("<!-- table: nonsense -->\n<!-- end -->", tmp_path)


def test_results_that_are_missing_or_strange_are_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="learnsgl bench offline --out"):
        render("", tmp_path)
    (tmp_path / "offline.json").write_bytes(msgspec.json.encode({"format": 1}))
    with pytest.raises(FolderError, match="missing required field"):
        read_report(tmp_path / "offline.json")


def test_every_field_of_a_report_is_required_but_its_format() -> None:
    fields = msgspec.structs.fields(Report)
    assert [field.name for field in fields if not field.required] == ["format"]
