"""The table of `learnsgl bench tracers`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.stats import median_interval, spread
from learnsgl.bench.tables import Table
from learnsgl.bench.tracers import TracerRun


def tracers_tables(runs: list[TracerRun]) -> list[Table]:
    """What each tracer costs, and what it leaves."""
    heads = (
        "tracer", "tokens a second", "of the speed without", "events", "file, kB", "bytes an event", "end and write, s",
        "read all back, s",
    )  # fmt: skip
    names = list(dict.fromkeys(run.tracer for run in sorted(runs, key=lambda run: run.tracer != "none")))
    return [
        Table(
            "tracers", heads, [_row(name, runs) for name in names],
            "Medians of the rounds (least to greatest); the share is the median of the rounds' own, with its 95% "
            "confidence interval. End and write is the time in which a process ends, what it still has to write "
            "included.",
        )
    ]  # fmt: skip


def _row(name: str, runs: list[TracerRun]) -> list[str]:
    mine = sorted((run for run in runs if run.tracer == name), key=lambda run: run.number)
    without = sorted((run for run in runs if run.tracer == "none"), key=lambda run: run.number)
    rate = spread([run.tokens_per_s for run in mine]).text()
    if name == "none":
        return [name, rate, "", "", "", "", spread([run.save_s for run in mine]).text(2), ""]
    share = median_interval([a.tokens_per_s / b.tokens_per_s for a, b in zip(mine, without, strict=True)])
    num_events = spread([float(run.num_events) for run in mine]).median
    file_bytes = spread([float(run.file_bytes) for run in mine]).median
    return [
        name, rate, share.text(3), f"{num_events:,.0f}", f"{file_bytes / 1e3:,.0f}", f"{file_bytes / num_events:.1f}",
        spread([run.save_s for run in mine]).text(2), spread([run.open_s for run in mine]).text(3),
    ]  # fmt: skip
