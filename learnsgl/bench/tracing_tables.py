"""The tables of `learnsgl bench trace`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.stats import Spread, median_interval, quantile, spread
from learnsgl.bench.tables import Table, judged, verdict
from learnsgl.bench.tracing import Run, TraceResults

EVENT_AIM_US = 2.0
STEP_AIM_US = 100.0
SHARE_AIM = 0.01


def trace_tables(results: TraceResults) -> list[Table]:
    """What an event, a step and a run cost."""
    runs = [("device held", results.held), ("model", results.model)]
    tables = []
    if results.events:
        heads = ("event", "where it happens, µs", "aim", "", "written later, µs")
        tables.append(Table("trace-event", heads, _event_rows(results)))
    if results.steps:
        note = (
            "Median of the blocks (least to greatest); the difference is the median of the pairs' own, with its 95% "
            "confidence interval."
        )
        tables.append(Table("trace-step", ("a step at this level", "µs", "aim", ""), _step_rows(results), note))
    if any(found for _, found in runs):
        note = (
            "Medians of the runs, and the median of the pairs' ratios with its 95% confidence interval (unsure: the "
            "aim lies within it). p99 is taken over the gaps of each run; the pooled one over those of all runs of a "
            "level."
        )
        rows = [row for name, found in runs if found for row in _run_rows(name, found)]
        tables.append(Table("trace-runs", RUN_HEADS, rows, note))
    return tables


RUN_HEADS = ("runs on", "measure", "off", "full", "full over off", "aim", "")


def _event_rows(results: TraceResults) -> list[list[str]]:
    return [
        [f"`{one.kind}`", f"{one.emit_us:.2f}", f"{EVENT_AIM_US:g}", verdict(one.emit_us, at_most=EVENT_AIM_US),
         f"{one.write_us:.2f}"]
        for one in results.events
    ]  # fmt: skip


def _step_rows(results: TraceResults) -> list[list[str]]:
    steps = results.steps
    added = median_interval([one.full_us - one.off_us for one in steps])
    whole = median_interval([one.full_us - one.off_us + one.write_us for one in steps])
    judged = [f"{STEP_AIM_US:.0f}", verdict(added.median, at_most=STEP_AIM_US)]
    return [
        ["off", spread([one.off_us for one in steps]).text(), "", ""],
        ["full", spread([one.full_us for one in steps]).text(), "", ""],
        ["added to the step", added.text(), *judged],
        ["written while the scheduler waits", spread([one.write_us for one in steps]).text(), "", ""],
        ["both together", whole.text(), f"{STEP_AIM_US:.0f}", verdict(whole.median, at_most=STEP_AIM_US)],
    ]


def _run_rows(name: str, runs: list[Run]) -> list[list[str]]:
    off, full = ([run for run in runs if run.level == level] for level in ("off", "full"))
    off.sort(key=lambda run: run.number)
    full.sort(key=lambda run: run.number)
    rates = median_interval([b.tokens_per_s / a.tokens_per_s for a, b in zip(off, full, strict=True)])
    p99s = [[quantile(run.gaps_ms, 0.99) for run in level] for level in (off, full)]
    p99 = median_interval([b / a for a, b in zip(*p99s, strict=True)])
    pooled = [quantile([gap for run in level for gap in run.gaps_ms], 0.99) for level in (off, full)]
    return [
        [name, "tokens a second", *(spread([run.tokens_per_s for run in level]).text() for level in (off, full)),
         *_cells(rates, at_least=1 - SHARE_AIM)],
        [name, "inter-token latency p99, ms", *(spread(values).text(2) for values in p99s),
         *_cells(p99, at_most=1 + SHARE_AIM)],
        [name, "the same, pooled, ms", *(f"{value:.2f}" for value in pooled), f"{pooled[1] / pooled[0]:.4f}", "", ""],
    ]  # fmt: skip


def _cells(ratio: Spread, *, at_least: float | None = None, at_most: float | None = None) -> list[str]:
    aim = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
    return [ratio.text(4), aim, judged(ratio, at_least=at_least, at_most=at_most)]
