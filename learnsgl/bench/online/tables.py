"""The tables of `learnsgl bench online`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.online.results import BUSY_SHARE, OnlineResults
from learnsgl.bench.online.summary import BEHIND_S, Stats, Summary, error_kind, probe_stats, summarize
from learnsgl.bench.tables import Table

LOAD_COLUMNS = (
    "load", "requests", "answered", "failed", "left", "behind", "req/s", "tokens/s in", "tokens/s out",
    "goodput, req/s", "within limits", "client, of a core",
)  # fmt: skip
LATENCY_COLUMNS = ("load", "ms", "values", "mean", "p50", "p90", "p99", "max")
PROBE_COLUMNS = ("load", "route", "asked", "p50, ms", "p90", "p99", "max", "not answered", "aim", "")
_LATENCIES = (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("end to end", "e2e"))
_MAX_MESSAGE_CHARS = 100
PROBE_AIM_MS = 100.0
"""Small routes are to answer within this, whatever else runs."""


def online_tables(results: OnlineResults) -> list[Table]:
    """What each load came to, the latencies, and errors where there were any."""
    summaries = [summarize(run, results.limits) for run in results.runs]
    tables = [
        Table(
            "online-load",
            LOAD_COLUMNS,
            [_load_row(one) for one in summaries], _load_note(results, summaries),
        ),
        Table(
            "online-latency", LATENCY_COLUMNS,
            [
                [one.load.text(), name, *_cells(getattr(one, field))]
                for one in summaries for name, field in _LATENCIES if getattr(one, field) is not None
            ],
            "Of requests that were answered whole. TTFT and end to end count from the intended arrival, in an open "
            "loop also where a request was sent later. TPOT is a request's mean time of a token after its first; ITL "
            "are all gaps between pieces of text, and a piece may be several tokens.",
        ),
    ]  # fmt: skip
    if probes := _probe_rows(results):
        tables.append(
            Table(
                "online-probes", PROBE_COLUMNS,
                probes,
                "Asked ten times a second by a process of its own while the load ran. The times are of the answers, "
                "from the moment at which each was to be asked; the aim is for all of them.",
            )
        )  # fmt: skip
    if errors := _error_rows(results):
        tables.append(Table("online-errors", ("load", "error", "requests", "the first one's words"), errors))
    return tables


def _load_row(one: Summary) -> list[str]:
    good = "" if one.good_per_s is None else f"{one.good_per_s:.2f}"
    share = "" if one.good_share is None else f"{100 * one.good_share:.0f}%"
    return [
        one.load.text(), f"{one.num_sent}", f"{one.num_done}", f"{sum(one.errors.values())}", f"{one.num_left}",
        f"{one.num_behind}", f"{one.requests_per_s:.2f}", f"{one.input_tokens_per_s:,.0f}",
        f"{one.output_tokens_per_s:,.0f}", good, share, f"{100 * one.cpu_share:.0f}%",
    ]  # fmt: skip


def _cells(found: Stats) -> list[str]:
    return [f"{found.num:,}", *(f"{value:,.1f}" for value in found[1:])]


def _load_note(results: OnlineResults, summaries: list[Summary]) -> str:
    notes = [f"{results.model}: {results.workload}."]
    if results.was_interrupted:
        stopped = sum(one.num_stopped for one in summaries)
        notes.append(f"Ended early by Ctrl-C; {stopped} requests that ran then count nowhere.")
    if results.limits.is_set:
        notes.append(f"Limits: {results.limits.text()}; failed requests count as outside of them.")
    if any(one.num_behind for one in summaries):
        most = max(one.max_behind_ms for one in summaries)
        notes.append(
            f"Behind: sent more than {1e3 * BEHIND_S:.0f} ms after the intended arrival ({most:,.0f} ms at most); "
            "their latencies count from the intended one, so that a late client hides nothing."
        )
    busy = [run for run in results.runs if run.is_client_busy]
    if busy:
        lag = 1e3 * max(run.max_lag_s for run in busy)
        notes.append(
            f"The client used more than {100 * BUSY_SHARE:.0f}% of a core, so its own work shows in the latencies; its "
            f"event loop came up to {lag:.0f} ms late."
        )
    return " ".join([*notes, *results.notes])


def _probe_rows(results: OnlineResults) -> list[list[str]]:
    rows = []
    for run in results.runs:
        for path, (found, num_failed) in probe_stats(run).items():
            cells = ["", "", "", ""] if found is None else _cells(found)[2:]
            is_met = found is not None and not num_failed and found.max <= PROBE_AIM_MS
            num = num_failed + (0 if found is None else found.num)
            verdict = "met" if is_met else "missed"
            rows.append(
                [run.load.text(), path, f"{num:,}", *cells, f"{num_failed:,}", f"{PROBE_AIM_MS:.0f} ms", verdict]
            )
    return rows


def _error_rows(results: OnlineResults) -> list[list[str]]:
    rows = []
    for run in results.runs:
        failed = [row for row in run.rows if row.outcome.is_error]
        for kind in sorted({error_kind(row) for row in failed}):
            same = [row for row in failed if error_kind(row) == kind]
            rows.append([run.load.text(), kind, f"{len(same)}", " ".join(same[0].error.split())[:_MAX_MESSAGE_CHARS]])
    return rows
