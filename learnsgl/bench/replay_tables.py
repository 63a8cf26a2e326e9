"""The tables of `learnsgl bench replay`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.replay import Length
from learnsgl.bench.replay_task import EXPORT, Measured
from learnsgl.bench.stats import quantile
from learnsgl.bench.tables import Table, verdict

AIMS_S = {"open": 2.0, "first-visit": 0.5, "again": 0.05}
_NAMES = {
    "open": "open it",
    "first-visit": "go to a moment, the first time",
    "again": "go there again, and list requests, tree and free pages",
    "messages": "open it, and find the messages on their way at its end",
    "fold": "fold all of the scheduler's events",
}


def replay_tables(lengths: list[Length]) -> list[Table]:
    """What there was to read, what it took, and what exports take."""
    return [
        Table(
            "replay-recordings", ("events", "on disk, MB", "bytes an event", "keyframes", "nodes of the tree"),
            [
                [f"{one.num_events:,}", f"{one.num_bytes / 1e6:.1f}", f"{one.num_bytes / one.num_events:.1f}",
                 f"{one.num_keyframes:,}", f"{one.num_nodes:,}"]
                for one in lengths
            ],
        ),
        Table(
            "replay", ("events", "what", "median, ms", "greatest, ms", "aim, ms", "", "peak memory, MB"),
            [
                _row(one, measured)
                for one in lengths for measured in one.measured if not measured.task.startswith(EXPORT)
            ],
            "The aim is for the greatest. Peak memory is that of the whole process; before its task it takes "
            f"{_start(lengths):.0f} MB.",
        ),
        Table(
            "replay-exports", ("events", "format", "s", "events a second", "file, MB", "peak memory, MB"),
            [
                _export_row(one, measured)
                for one in lengths for measured in one.measured if measured.task.startswith(EXPORT)
            ],
        ),
    ]  # fmt: skip


def _start(lengths: list[Length]) -> float:
    return min((measured.start_bytes for one in lengths for measured in one.measured), default=0) / 1e6


def _row(length: Length, measured: Measured) -> list[str]:
    aim_s, most = AIMS_S.get(measured.task), max(measured.took_s)
    judged = ["", ""] if aim_s is None else [f"{aim_s * 1e3:,.0f}", verdict(most, at_most=aim_s)]
    times = [f"{seconds * 1e3:,.1f}" for seconds in (quantile(measured.took_s, 0.5), most)]
    name = _NAMES.get(measured.task, measured.task)
    return [f"{length.num_events:,}", name, *times, *judged, f"{measured.peak_bytes / 1e6:,.0f}"]


def _export_row(length: Length, measured: Measured) -> list[str]:
    took_s = quantile(measured.took_s, 0.5)
    return [
        f"{length.num_events:,}", measured.task.removeprefix(EXPORT), f"{took_s:.2f}",
        f"{length.num_events / took_s:,.0f}", f"{measured.file_bytes / 1e6:.1f}", f"{measured.peak_bytes / 1e6:,.0f}",
    ]  # fmt: skip
