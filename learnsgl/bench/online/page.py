"""What the page of benchmarks shows of `learnsgl bench online`: three loads on a server of our own, by name.

`bench/docs.py` asks for them. Each lies in a folder of its own, which `--out` names, so that they don't overwrite each
other; until a load was measured, its tables stand there empty.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from learnsgl.bench.online.results import OnlineResults
from learnsgl.bench.online.tables import LATENCY_COLUMNS, LOAD_COLUMNS, PROBE_COLUMNS, online_tables
from learnsgl.bench.report import Report, read_report
from learnsgl.bench.tables import Table

LOADS = ("online-sweep", "online-256", "online-256-tiny")
"""A sweep of rates, and 256 clients at once, on the built-in model and on the tiny one."""
FILE = "online.json"
_SHOWN = {"online-load": LOAD_COLUMNS, "online-latency": LATENCY_COLUMNS, "online-probes": PROBE_COLUMNS}


def read_loads(folder: Path) -> dict[str, Report | None]:
    """The reports of all loads, by name; `None` for one that wasn't measured yet.

    Raises:
        FolderError: a file is there, and isn't a report.
    """
    files = {name: folder / name / FILE for name in LOADS}
    return {name: read_report(file) if file.is_file() else None for name, file in files.items()}


def page_tables(report: Report | None) -> list[Table]:
    """The tables that the page has of a load, with no row where it wasn't measured yet."""
    if report is None:
        return [Table(name, columns, []) for name, columns in _SHOWN.items()]
    tables = {table.name: table for table in online_tables(msgspec.convert(report.results, OnlineResults))}
    return [tables.get(name, Table(name, columns, [])) for name, columns in _SHOWN.items()]
