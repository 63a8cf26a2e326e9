"""How fast the answers came, in one recording or two: TTFT, gaps between tokens and TPOT as cumulative distributions.

The lessons that compare configurations draw it. A curve further to the left is faster; where curves cross, one is
faster for most and the other for the slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from learnsgl.errors import OptionError, TraceError
from learnsgl.replay.ledger import Ledgers, Measure
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import Recording, missing_notes, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, TEXT_SIZE, finish, grid, new_figure, panel_title, subtitle
from learnsgl.viz.theme import LIGHT, Theme
from learnsgl.viz.words import count, duration

HEIGHT_INCHES = 4.0
MIN_FOR_P99 = 100
"""With fewer values, the 99th percentile is the largest but in name; that one is marked instead."""
MAX_TRACES = 4
Values = npt.NDArray[np.float64]
PANELS = (
    ("ttft_s", "TTFT: time to first token"),
    ("gap_s", "ITL: gaps between tokens"),
    ("tpot_s", "TPOT: mean gap of a request"),
)


@dataclass(frozen=True)
class Latencies:
    """The latencies of one recording, each sorted ascending, in seconds: float64 [n].

    Attributes:
        name: of the recording.
        num_requests: requests in it.
        ttft_s: time to first token, of each request that got one.
        gap_s: each gap between two tokens' arrival at the client's socket.
        tpot_s: mean time per token after the first, of each request with two or more.
        uses_commits: whether some requests are measured where the scheduler takes their tokens over, since the
            recording holds no chunks of a stream.
        missing: what the recording says to be missing.
    """

    name: str
    num_requests: int
    ttft_s: Values
    gap_s: Values
    tpot_s: Values
    uses_commits: bool
    missing: tuple[str, ...]


def latency_distributions(
    *traces: Recording, names: tuple[str, ...] | None = None, theme: Theme = LIGHT
) -> tuple[Figure, tuple[Latencies, ...]]:
    """Draw the distributions of latencies of one recording, or of several side by side.

    Args:
        traces: the recordings, one to four, of any level.
        names: what to call them; by default by their files.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the latencies that it shows, one for each recording.

    Raises:
        OptionError: no recording, too many, or another number of names.
        TraceError: a recording has no request that got a token.
    """
    if not 1 <= len(traces) <= MAX_TRACES or (names is not None and len(names) != len(traces)):
        raise OptionError(
            f"{count(len(traces), 'recording')} and {'no' if names is None else len(names)} names; give one to "
            f"{MAX_TRACES} recordings, and as many names or none"
        )
    opened = [trace_of(trace) for trace in traces]
    called = names or tuple(trace.path.name.removesuffix(".trace.zip") for trace in opened)
    data = tuple(read_latencies(trace, name) for trace, name in zip(opened, called, strict=True))
    figure = new_figure(theme, HEIGHT_INCHES)
    for place, (axes, (field, title)) in enumerate(zip(figure.subplots(1, 3, sharey=True), PANELS, strict=True)):
        _draw(axes, [(one.name, getattr(one, field)) for one in data], theme)
        panel_title(axes, theme, title)
        if not place:
            axes.set_ylabel("share that is at most so long")
    finish(figure, theme, _title(data), subtitle=subtitle(opened[0]) if len(opened) == 1 else "", notes=_notes(data))
    return figure, data


def read_latencies(trace: Trace, name: str) -> Latencies:
    """Read the latencies of a recording.

    Raises:
        TraceError: no request in it got a token.
    """
    ledgers = list(Ledgers(trace).all())
    ttft = [one.ttft_ns for one in ledgers if one.ttft_ns is not None]
    if not ttft:
        raise TraceError(f"{trace.path}: no request got a token in this recording, so there is no latency to draw")
    gaps = [[sum(part.duration_ns for part in gap) for gap in one.gaps] for one in ledgers]
    tpot = [sum(of_one) / len(of_one) for of_one in gaps if of_one]
    uses_commits = any(one.ttft and one.measured is Measure.COMMITS for one in ledgers)
    return Latencies(
        name, len(ledgers), _seconds(ttft), _seconds([gap for of_one in gaps for gap in of_one]), _seconds(tpot),
        uses_commits, tuple(missing_notes(trace)),
    )  # fmt: skip


def _seconds(nanoseconds: Sequence[float]) -> Values:
    return np.sort(np.array(nanoseconds, dtype=np.float64)) / 1e9


def _draw(axes: Axes, curves: list[tuple[str, Values]], theme: Theme) -> None:
    theme.style_axes(axes)
    grid(axes, theme)
    handles: list[Line2D] = []
    longest = max((float(values[-1]) for _, values in curves if len(values)), default=1.0)
    for place, (name, values) in enumerate(curves):
        colour = theme.series(place)
        if not len(values):
            continue
        shares = np.arange(1, len(values) + 1) / len(values)
        axes.step(
            np.concatenate([values[:1], values, [longest * 1.3]]), np.concatenate([[0], shares, [1]]), where="post",
            color=colour, lw=1.8, zorder=3,
        )  # fmt: skip
        handles.append(_mark(axes, name, values, colour, theme))
    axes.legend(
        handles=handles, loc="lower right", fontsize=SMALL_SIZE, labelcolor=theme.ink, handlelength=1.2,
        facecolor=theme.background, edgecolor="none", framealpha=0.85, borderpad=0.3,
    )  # fmt: skip
    axes.set_xlim(0, longest * 1.06)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
    per_unit, unit = (1.0, "seconds") if longest >= 10 else (1e3, "milliseconds")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * per_unit:,.6g}"))
    axes.set_xlabel(unit)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    if not any(len(values) for _, values in curves):
        axes.text(
            0.5, 0.5, "none in this recording", transform=axes.transAxes, ha="center", color=theme.muted,
            fontsize=TEXT_SIZE,
        )  # fmt: skip


def _mark(axes: Axes, name: str, values: Values, colour: str, theme: Theme) -> Line2D:
    """The median and the 99th percentile as points on the curve; gives the curve's line of the key with the numbers."""
    median, (tail_name, tail) = float(np.median(values)), _tail(values)
    for x, share in ((median, 0.5), (tail, 0.99 if tail_name == "p99" else 1.0)):
        axes.plot(x, share, "o", ms=6, color=colour, mec=theme.background, zorder=4)
    text = f"{name}\nmedian {duration(median * 1e9)}, {tail_name} {duration(tail * 1e9)}"
    return Line2D([], [], color=colour, lw=2.2, label=text)


def _tail(values: Values) -> tuple[str, float]:
    """The 99th percentile, or the largest where there are too few values for one."""
    if len(values) < MIN_FOR_P99:
        return "longest", float(values[-1])
    return "p99", float(np.quantile(values, 0.99))


def _title(data: tuple[Latencies, ...]) -> str:
    if len(data) == 1:
        return f"How fast the answers to {count(data[0].num_requests, 'request')} came"
    if len(data) > 2:
        return f"How fast the answers came: {', '.join(one.name for one in data)}"
    medians = [duration(float(np.median(one.ttft_s)) * 1e9) for one in data]
    if not all(len(one.gap_s) for one in data):
        return f"Median TTFT: {', '.join(f'{ttft} ({one.name})' for one, ttft in zip(data, medians, strict=True))}"
    is_p99 = all(len(one.gap_s) >= MIN_FOR_P99 for one in data)
    gaps = [duration((_tail(one.gap_s)[1] if is_p99 else float(one.gap_s[-1])) * 1e9) for one in data]
    parts = [f"{ttft} and {gap} ({one.name})" for one, ttft, gap in zip(data, medians, gaps, strict=True)]
    return f"Median TTFT and {'p99' if is_p99 else 'longest'} gap: {', '.join(parts)}"


def _notes(data: tuple[Latencies, ...]) -> list[str]:
    notes = [f"{one.name}: {count(one.num_requests, 'request')}, {len(one.gap_s):,} gaps." for one in data]
    if any(len(values) < MIN_FOR_P99 for one in data for values in (one.ttft_s, one.gap_s, one.tpot_s)):
        notes.append(f"Of fewer than {MIN_FOR_P99} values, the longest is marked instead of the 99th percentile.")
    if any(one.uses_commits for one in data):
        notes.append(
            "A request without chunks in the recording (it asked for no stream, or the level is steps) is measured "
            "where the scheduler takes its tokens over."
        )
    return [" ".join(notes), *dict.fromkeys(note for one in data for note in one.missing)]
