"""Writes the tables of `docs/benchmarks.md` from the raw results beside it; the words around them are written by hand.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; a run's command, date and machine where the page says
`<!-- run: BENCH -->`; and what was tried for a benchmark's figures, from `tried.json`, at `<!-- tried: BENCH -->`.
`learnsgl bench docs` calls `write_page`, and a test compares the page with `render`. Results of a GPU lie in the folder
`gpu`, and their tables have that name before their own; those that aren't there have no rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from learnsgl.bench.command import BENCHES
from learnsgl.bench.kernels_tables import KERNEL_HEADS, KERNELS
from learnsgl.bench.offline_tables import FLOOR_HEADS
from learnsgl.bench.online.page import FILE, page_tables, read_loads
from learnsgl.bench.report import Report, read_report
from learnsgl.bench.run import tables_of
from learnsgl.bench.steps_tables import DECODE_HEADS, IDLE_HEADS, PREFILL_HEADS
from learnsgl.bench.tables import Table
from learnsgl.bench.tracing_tables import RUN_HEADS
from learnsgl.errors import FolderError

_PLACE = re.compile(r"<!-- (table|run|tried): ([\w/-]+) -->\n.*?<!-- end -->", re.DOTALL)
GPU = "gpu"
GPU_TABLES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "steps": {"steps-decode": DECODE_HEADS, "steps-idle": IDLE_HEADS, "steps-prefill": PREFILL_HEADS},
    "llama/steps": {"steps-decode": DECODE_HEADS, "steps-prefill": PREFILL_HEADS},
    "flashinfer/steps": {"steps-decode": DECODE_HEADS},
    "offline": {"offline-floor": FLOOR_HEADS},
    "mini-sglang/offline": {"offline-floor": FLOOR_HEADS},
    "trace": {"trace-runs": RUN_HEADS},
    "kernels": {f"kernels-{kernel}": KERNEL_HEADS for kernel in KERNELS},
}
"""Tables of a GPU on the page, by the file of their results, with their columns."""
_SHOWN_VERSIONS = ("python", "torch", "triton", "transformers", "llama-cpp-python", "numpy")


class Tried(msgspec.Struct, forbid_unknown_fields=True):
    """One way that was tried to make a figure better, measured when it was tried.

    Attributes:
        bench: whose figure.
        what: the change.
        before, after: the figure, with its unit.
        kept: whether the change stayed.
        measured: how, where and when: command or measure, machine, date.
    """

    bench: str
    what: str
    before: str
    after: str
    kept: bool
    measured: str


def read_tried(folder: Path) -> list[Tried]:
    """What was tried, from `tried.json`.

    Raises:
        FolderError: the file can't be read.
    """
    try:
        return msgspec.json.decode((folder / "tried.json").read_bytes(), type=list[Tried])
    except (OSError, msgspec.DecodeError) as error:
        raise FolderError(f"{folder / 'tried.json'} can't be read ({error}); it is part of the checkout") from error


def tried_table(tried: list[Tried], bench: str) -> Table:
    """The ways that were tried for one benchmark."""
    rows = [
        (one.what, one.before, one.after, "kept" if one.kept else "not kept", one.measured)
        for one in tried
        if one.bench == bench
    ]
    return Table(f"tried-{bench}", ("tried", "before", "after", "", "measured"), rows)


def render(page: str, folder: Path) -> str:
    """The page with every table as the results in `folder` have it.

    Raises:
        FolderError: a result is missing, or the page asks for a table that there isn't.
    """
    reports = {name: read_report(folder / f"{name}.json") for name in BENCHES}
    texts = {("run", name): about(report, f"{folder.name}/{name}.json") for name, report in reports.items()}
    tried = read_tried(folder)
    texts |= {
        ("tried", name): tried_table(tried, name).markdown() for name in dict.fromkeys(one.bench for one in tried)
    }
    texts |= _gpu_texts(folder)
    texts |= _online_texts(folder)
    for report in reports.values():
        texts |= {("table", table.name): table.markdown() for table in tables_of(report)}

    def fill(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        if (kind, name) not in texts:
            known = ", ".join(known for other, known in texts if other == kind)
            raise FolderError(f"the page asks for the {kind} {name!r}; in {folder} there are: {known}")
        return f"<!-- {kind}: {name} -->\n{texts[kind, name]}\n<!-- end -->"

    return _PLACE.sub(fill, page)


def _online_texts(folder: Path) -> dict[tuple[str, str], str]:
    """What stands in the places of servers under load."""
    texts = {}
    for name, report in read_loads(folder).items():
        file = f"{folder.name}/{name}/{FILE}"
        texts["run", name] = "Not measured yet." if report is None else about(report, file)
        texts |= {("table", f"{name}/{table.name}"): table.markdown() for table in page_tables(report)}
    return texts


def _gpu_texts(folder: Path) -> dict[tuple[str, str], str]:
    """What stands in the places of a GPU's runs and tables."""
    texts = {}
    for name, heads in GPU_TABLES.items():
        tables = {table: Table(table, columns, []) for table, columns in heads.items()}
        file = folder / GPU / f"{name}.json"
        texts["run", f"{GPU}/{name}"] = "Not measured yet."
        if file.is_file():
            report = read_report(file)
            tables |= {table.name: table for table in tables_of(report)}
            texts["run", f"{GPU}/{name}"] = about(report, f"{folder.name}/{GPU}/{name}.json")
        texts |= {("table", place_of(name, table)): tables[table].markdown() for table in heads}
    return texts


def place_of(name: str, table: str) -> str:
    """What the page calls a table of a GPU's results; of two files with the same table, by their folder."""
    return (PurePosixPath(GPU, name).parent / table).as_posix()


def about(report: Report, file: str) -> str:
    """What a run's figures belong to, in a paragraph."""
    machine, versions = report.machine, report.versions
    shown = ", ".join(f"{name} {versions[name]}" for name in _SHOWN_VERSIONS if name in versions)
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in report.settings.items() if value not in ("", []))
    return (
        f"`{report.command}`, {report.date[:16].replace('T', ' ')} UTC, {report.duration_s:.0f} s; {machine.text()}; "
        f"load {machine.load_before:.2f} before the run and {machine.load_after:.2f} at its end. {shown}. "
        f"Settings: {settings}. Raw results: [{file}]({file})."
    )


def _shown(value: object) -> str:
    if isinstance(value, dict) and set(value) == {"low", "high"}:
        return str(value["low"]) if value["low"] == value["high"] else f"{value['low']} to {value['high']}"
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return str(value)


def write_page(page: Path, folder: Path) -> Path:
    """Write the tables into `page`.

    Raises:
        FolderError: the page or a result can't be read, or the page can't be written.
    """
    try:
        page.write_text(render(page.read_text(encoding="utf-8"), folder), encoding="utf-8")
    except OSError as error:
        raise FolderError(f"{page} can't be rewritten ({error.strerror}); run it in a checkout") from error
    return page
