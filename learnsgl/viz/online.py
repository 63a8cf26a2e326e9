"""Latency against load, as `learnsgl bench online` measured it: TTFT and time per token by percentile, and throughput.

`learnsgl bench online --figure` draws it. Where the lines of latency turn upwards, the server has reached what it can
do; where throughput stays behind the dashed line, requests come faster than they are answered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from learnsgl.bench.online.results import OnlineResults
from learnsgl.bench.online.summary import Stats, Summary, summarize
from learnsgl.errors import OptionError
from learnsgl.viz.sheet import SMALL_SIZE, TEXT_SIZE, finish, grid, new_figure, panel_title
from learnsgl.viz.theme import LIGHT, Theme
from learnsgl.viz.words import count, duration

HEIGHT_INCHES = 4.0
PERCENTILES = ("p50", "p90", "p99")
_LOG_FROM = 20.0
"""Where the largest value is so many times the smallest, the axis is logarithmic."""


def online_latency(results: OnlineResults, *, theme: Theme = LIGHT) -> tuple[Figure, tuple[Summary, ...]]:
    """Draw the latencies and the throughput of a sweep.

    Args:
        results: at least one run with a request.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and what it shows: a summary of each run, by load.

    Raises:
        OptionError: no run has sent a request.
    """
    runs = sorted((run for run in results.runs if run.rows), key=lambda run: run.load.value)
    if not runs:
        raise OptionError("no run has sent a request, so there is nothing to draw; measure at least one request")
    data = tuple(summarize(run, results.limits) for run in runs)
    figure = new_figure(theme, HEIGHT_INCHES)
    ttft, tpot, rate = figure.subplots(1, 3)
    _draw_latency(ttft, [one.ttft for one in data], data, results.limits.ttft_ms, theme)
    panel_title(ttft, theme, "TTFT: time to first token")
    _draw_latency(tpot, [one.tpot for one in data], data, results.limits.tpot_ms, theme)
    panel_title(tpot, theme, "TPOT: time of a further token")
    _draw_rates(rate, data, theme)
    panel_title(rate, theme, "requests answered a second")
    finish(figure, theme, _title(data), subtitle=f"{results.model} · {results.workload}", notes=_notes(results, data))
    return figure, data


def _draw_latency(
    axes: Axes, found: Sequence[Stats | None], data: Sequence[Summary], limit_ms: float | None, theme: Theme
) -> None:
    _style(axes, data, theme)
    places = [place for place, stats in enumerate(found) if stats is not None]
    shown = [stats for stats in found if stats is not None]
    xs = [x for place, x in enumerate(_positions(data)) if place in places]
    for place, name in enumerate(PERCENTILES):
        values = [getattr(stats, name) for stats in shown]
        axes.plot(xs, values, "o-", color=theme.series(place), lw=1.8, ms=4.5, label=name, zorder=3)
    drawn = [value for stats in shown for value in (stats.p50, stats.p99)]
    if not drawn:
        axes.text(0.5, 0.5, "none was measured", transform=axes.transAxes, ha="center", color=theme.muted,
                  fontsize=TEXT_SIZE)  # fmt: skip
        axes.set_yticks([])
        return
    if limit_ms is not None:
        axes.axhline(limit_ms, color=theme.exposed, lw=1.0, ls="--", zorder=2, label=f"limit {limit_ms:g} ms")
        drawn.append(limit_ms)
    if min(drawn) > 0 and max(drawn) > _LOG_FROM * min(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, max(drawn) * 1.12 or 1.0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_ylabel("milliseconds")
    _legend(axes, theme)


def _draw_rates(axes: Axes, data: Sequence[Summary], theme: Theme) -> None:
    _style(axes, data, theme)
    xs = _positions(data)
    axes.plot(xs, [one.requests_per_s for one in data], "o-", color=theme.series(0), lw=1.8, ms=4.5, label="answered")
    if all(one.good_per_s is not None for one in data):
        good = [one.good_per_s or 0.0 for one in data]
        axes.plot(xs, good, "o-", color=theme.series(2), lw=1.8, ms=4.5, label="within the limits")
    rates = [one.load.rate for one in data]
    if all(rate is not None for rate in rates):
        axes.plot(xs, [rate or 0.0 for rate in rates], "--", color=theme.muted, lw=1.0, label="asked for", zorder=1)
    axes.set_ylim(0, 1.12 * max(max(one.load.rate or 0.0, one.requests_per_s) for one in data) or 1.0)
    _legend(axes, theme)


def _style(axes: Axes, data: Sequence[Summary], theme: Theme) -> None:
    theme.style_axes(axes)
    grid(axes, theme)
    positions = _positions(data)
    span = positions[-1] - positions[0] or 1.0
    axes.set_xlim(positions[0] - 0.08 * span, positions[-1] + 0.08 * span)
    axes.xaxis.set_major_locator(FixedLocator(positions))
    words = ["all at once" if one.load.is_burst_of_all else f"{one.load.value:g}" for one in data]
    axes.set_xticks(positions, words)
    axes.set_xlabel(data[0].load.axis)


def _positions(data: Sequence[Summary]) -> list[float]:
    """Where each run stands: at its load, or evenly where loads lie too far apart for that, or one has no number."""
    values = [one.load.value for one in data]
    if any(math.isinf(value) for value in values) or len(set(values)) < len(values) or not _is_readable(values):
        return [float(place) for place in range(len(values))]
    return values


def _is_readable(values: Sequence[float]) -> bool:
    gaps = [after - before for before, after in itertools.pairwise(values)]
    return all(gap >= 0.09 * (values[-1] - values[0]) for gap in gaps)


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(
        loc="best", fontsize=SMALL_SIZE, labelcolor=theme.ink, facecolor=theme.background, edgecolor="none",
        framealpha=0.85, borderpad=0.3, handlelength=1.4,
    )  # fmt: skip


def _title(data: Sequence[Summary]) -> str:
    known = [one for one in data if one.ttft is not None]
    if not known:
        return f"No stream was answered at {count(len(data), 'load')}"
    low, high = known[0], known[-1]
    assert low.ttft is not None
    assert high.ttft is not None
    first = f"Median TTFT {duration(low.ttft.p50 * 1e6)} {_named(low)}"
    return first if low is high else f"{first}, {duration(high.ttft.p50 * 1e6)} {_named(high)}"


def _named(one: Summary) -> str:
    load = one.load
    if load.is_burst_of_all:
        return "with all requests at once"
    if load.concurrency is not None:
        return f"with {count(load.concurrency, 'request')} at once"
    return f"at {load.value:g} requests a second" if load.rate is not None else f"at speed {load.value:g}"


def _notes(results: OnlineResults, data: Sequence[Summary]) -> list[str]:
    sent = sum(one.num_sent for one in data)
    failed, behind = sum(sum(one.errors.values()) for one in data), sum(one.num_behind for one in data)
    notes = [f"{count(sent, 'request')}, {failed:,} failed; latencies are of those answered whole, from their intended "
             f"arrival on ({behind:,} were sent late)."]  # fmt: skip
    if results.was_interrupted:
        notes.append("The benchmark was ended early by Ctrl-C.")
    return [" ".join(notes), *results.notes]
