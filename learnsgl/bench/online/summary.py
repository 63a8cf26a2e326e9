"""Sums up the rows of a run: percentiles of each latency, throughput, goodput, errors by kind.

`tables.py` and `viz/online.py` show what this computes; nothing else computes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from learnsgl.bench.online.results import Limits, Load, Outcome, Row, Run
from learnsgl.bench.stats import quantile

BEHIND_S = 0.01
"""A request that is sent so much later than intended fell behind the schedule."""


class Stats(NamedTuple):
    """Values of one kind; percentiles are values that occurred (the nearest rank), none is interpolated."""

    num: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


def stats(values: Sequence[float]) -> Stats | None:
    """Sum up; `None` where there is no value."""
    if not values:
        return None
    ordered = sorted(values)
    p50, p90, p99 = (quantile(ordered, share) for share in (0.5, 0.9, 0.99))
    return Stats(len(ordered), math.fsum(ordered) / len(ordered), p50, p90, p99, ordered[-1])


class Summary(NamedTuple):
    """One run. Latencies are in milliseconds, of requests that were answered whole; rates are a second.

    Attributes:
        load: how much.
        num_sent: requests that were sent.
        num_done: of these, answered whole.
        num_left: whose clients went away, as the workload says.
        num_stopped: that Ctrl-C ended.
        num_behind: sent later than intended by more than `BEHIND_S`; they count from their intended arrival.
        max_behind_ms: the most.
        errors: by kind; an HTTP status is a kind of its own.
        requests_per_s, input_tokens_per_s, output_tokens_per_s: of those answered whole, over the whole run.
        good_per_s: those within the limits; `None` without limits.
        good_share: their share of all requests that ended by themselves; likewise.
        ttft: time to first token, of streams.
        tpot: mean time of an output token after the first, of each stream with two tokens or more.
        itl: gaps between pieces of text, all streams together.
        e2e: until the answer was whole.
        cpu_share, max_lag_ms: how busy this client was.
    """

    load: Load
    num_sent: int
    num_done: int
    num_left: int
    num_stopped: int
    num_behind: int
    max_behind_ms: float
    errors: dict[str, int]
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    good_per_s: float | None
    good_share: float | None
    ttft: Stats | None
    tpot: Stats | None
    itl: Stats | None
    e2e: Stats | None
    cpu_share: float
    max_lag_ms: float


def summarize(run: Run, limits: Limits) -> Summary:
    """Sum up a run, of any number of rows."""
    rows = run.rows
    done = [row for row in rows if row.outcome is Outcome.DONE]
    judged = [row for row in rows if row.outcome is Outcome.DONE or row.outcome.is_error]
    good = [row for row in done if is_good(row, limits)]
    outcomes = Counter(row.outcome for row in rows)
    duration_s = run.duration_s or math.inf
    return Summary(
        load=run.load, num_sent=len(rows), num_done=len(done), num_left=outcomes[Outcome.LEFT],
        num_stopped=outcomes[Outcome.STOPPED], num_behind=sum(row.behind_s > BEHIND_S for row in rows),
        max_behind_ms=1e3 * max((row.behind_s for row in rows), default=0.0),
        errors=dict(sorted(Counter(error_kind(row) for row in rows if row.outcome.is_error).items())),
        requests_per_s=len(done) / duration_s,
        input_tokens_per_s=sum(row.prompt_tokens or row.planned_prompt_tokens or 0 for row in done) / duration_s,
        output_tokens_per_s=sum(row.output_tokens for row in done) / duration_s,
        good_per_s=len(good) / duration_s if limits.is_set else None,
        good_share=len(good) / len(judged) if limits.is_set and judged else None,
        ttft=_stats_ms(row.ttft_s for row in done), tpot=_stats_ms(row.tpot_s for row in done),
        itl=stats([gap for row in done for gap in row.gaps_ms]), e2e=_stats_ms(row.e2e_s for row in done),
        cpu_share=run.cpu_share, max_lag_ms=1e3 * run.max_lag_s,
    )  # fmt: skip


def probe_stats(run: Run) -> dict[str, tuple[Stats | None, int]]:
    """By route: the milliseconds of its answers, and how many questions weren't answered."""
    found: dict[str, tuple[Stats | None, int]] = {}
    for path in dict.fromkeys(probe.path for probe in run.probes):
        mine = [probe for probe in run.probes if probe.path == path]
        answered = [probe.ms for probe in mine if probe.is_answered]
        found[path] = stats(answered), len(mine) - len(answered)
    return found


def is_good(row: Row, limits: Limits) -> bool:
    """Whether an answer came within the limits. Without a stream, its first token comes with its last."""
    ttft_s = row.e2e_s if row.ttft_s is None else row.ttft_s
    return (limits.ttft_ms is None or 1e3 * ttft_s <= limits.ttft_ms) and (
        limits.tpot_ms is None or row.tpot_s is None or 1e3 * row.tpot_s <= limits.tpot_ms
    )


def error_kind(row: Row) -> str:
    """What to count a failed request as: `timeout`, `HTTP 429`."""
    return f"HTTP {row.status}" if row.outcome is Outcome.STATUS else row.outcome.value


def _stats_ms(seconds: Iterable[float | None]) -> Stats | None:
    return stats([1e3 * value for value in seconds if value is not None])
