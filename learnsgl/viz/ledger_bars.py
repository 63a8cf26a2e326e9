"""The latency ledger as stacked bars: what the time to first token and the gaps between tokens were spent on.

The lessons on latency draw it. The parts are those of `replay/ledger.py`, which add up to the whole; colours are the
parts of the server, and the largest causes have their names in the bars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from learnsgl.errors import OptionError, TraceError
from learnsgl.replay.ledger import Cause, Ledger, Ledgers, totals_of
from learnsgl.replay.ledger_causes import Area
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import Recording, missing_notes, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, TEXT_SIZE, finish, grid, new_figure, panel_title, subtitle
from learnsgl.viz.theme import LIGHT, Theme, ink_on
from learnsgl.viz.words import count, duration, percent

MAX_BARS = 24
_BAR_INCHES = 0.24
_BASE_INCHES = 1.95
_BAR_HEIGHT = 0.74
_CHAR_SHARE = 0.0165
Costs = Mapping[Cause, float]


@dataclass(frozen=True)
class Bar:
    """One request, or the mean of all.

    Attributes:
        name: what stands beside it.
        ttft_ns: time to first token by cause; empty where there was none.
        gap_ns: the mean gap by cause; empty where there was none.
    """

    name: str
    ttft_ns: Costs
    gap_ns: Costs


@dataclass(frozen=True)
class LedgerBars:
    """What the figure shows.

    Attributes:
        ledgers: of all requests that got a token, in the order in which they came.
        mean: of all of them, each request counting once for TTFT and each gap once.
        bars: of those that are shown, in that order.
        num_requests: requests in the recording.
    """

    ledgers: tuple[Ledger, ...]
    mean: Bar
    bars: tuple[Bar, ...]
    num_requests: int


def ledger_bars(
    trace: Recording, *, uids: Sequence[int] | None = None, theme: Theme = LIGHT
) -> tuple[Figure, LedgerBars]:
    """Draw what the requests' time was spent on.

    Args:
        trace: the recording; at level steps, the ways in and out are one part each.
        uids: requests to show; by default all, or of more than 24 those with the longest time to first token. A single
            one is drawn token by token.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the ledgers that it shows.

    Raises:
        OptionError: one of the requests isn't in the recording.
        TraceError: none of them got a token.
    """
    trace = trace_of(trace)
    data = read_ledger_bars(trace, uids=uids)
    bars = [data.mean, *data.bars] if len(data.ledgers) > 1 else list(data.bars)
    tokens = _tokens_of(data.ledgers[0]) if len(data.ledgers) == 1 else []
    figure = new_figure(theme, _BASE_INCHES + _BAR_INCHES * max(len(tokens or bars), 3))
    if tokens:
        axes = figure.add_subplot()
        _draw(axes, [costs for _, costs in tokens], theme, char_share=_CHAR_SHARE / 2.2)
        axes.set_yticks(range(len(tokens)), [name for name, _ in tokens])
        axes.set_ylim(max(len(tokens), 3) - 0.5, -0.5)
    else:
        _draw_panels(figure, bars, theme)
    _add_legend(figure, bars, theme)
    finish(figure, theme, _title(data), subtitle=subtitle(trace), notes=[*_notes(data), *missing_notes(trace)])
    return figure, data


def _draw_panels(figure: Figure, bars: Sequence[Bar], theme: Theme) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, costs in (
        (panels[0], "TTFT: time to first token", [bar.ttft_ns for bar in bars]),
        (panels[1], "The mean gap between two tokens", [bar.gap_ns for bar in bars]),
    ):
        _draw(axes, costs, theme, char_share=_CHAR_SHARE)
        panel_title(axes, theme, title)
    panels[0].set_yticks(range(len(bars)), [bar.name for bar in bars])
    panels[0].set_ylim(max(len(bars), 3) - 0.5, -0.5)


def _tokens_of(one: Ledger) -> list[tuple[str, Costs]]:
    """The first token and each gap; of many gaps the longest, in their order."""
    longest = sorted(range(len(one.gaps)), key=lambda place: -sum(part.duration_ns for part in one.gaps[place]))
    gaps = [(f"gap {place + 1}", totals_of(one.gaps[place])) for place in sorted(longest[: MAX_BARS - 1])]
    return [("first token", totals_of(one.ttft)), *gaps]


def read_ledger_bars(trace: Trace, *, uids: Sequence[int] | None = None) -> LedgerBars:
    """Read the ledgers of a recording.

    Raises:
        OptionError: one of the requests isn't in the recording.
        TraceError: none of them got a token.
    """
    book = Ledgers(trace)
    if unknown := [uid for uid in uids or () if uid not in book.history.journeys]:
        raise OptionError(
            f"request {unknown[0]} is not in this recording, which has {count(len(book.keys), 'request')}"
        )
    wanted = [book.of(*key) for key in book.keys if uids is None or key[0] in uids]
    ledgers = [one for one in wanted if one.ttft]
    if not ledgers:
        raise TraceError(f"{trace.path}: no request got a token in this recording, so there is no time to divide up")
    shown = ledgers
    if len(ledgers) > MAX_BARS:
        slowest = sorted(range(len(ledgers)), key=lambda place: -(ledgers[place].ttft_ns or 0))[:MAX_BARS]
        shown = [ledgers[place] for place in sorted(slowest)]
    return LedgerBars(tuple(ledgers), _mean(ledgers), tuple(_bar(one) for one in shown), len(book.keys))


def _bar(one: Ledger) -> Bar:
    name = f"request {one.uid}" + (f".{one.choice}" if one.choice else "")
    gaps = totals_of(part for gap in one.gaps for part in gap)
    return Bar(name, totals_of(one.ttft), {cause: ns / len(one.gaps) for cause, ns in gaps.items()})


def _mean(ledgers: Sequence[Ledger]) -> Bar:
    ttft: Counter[Cause] = Counter()
    gaps: Counter[Cause] = Counter()
    for one in ledgers:
        ttft.update(totals_of(one.ttft))
        gaps.update(totals_of(part for gap in one.gaps for part in gap))
    num_gaps = sum(len(one.gaps) for one in ledgers)
    return Bar(
        f"mean of {len(ledgers):,}", {cause: ttft[cause] / len(ledgers) for cause in Cause if ttft[cause]},
        {cause: gaps[cause] / num_gaps for cause in Cause if gaps[cause]},
    )  # fmt: skip


def _draw(axes: Axes, costs: Sequence[Costs], theme: Theme, *, char_share: float) -> None:
    """A stacked bar for each request; causes that are large enough are named, and the sum stands behind the bar."""
    theme.style_axes(axes)
    grid(axes, theme, "x")
    longest = max((sum(cost.values()) for cost in costs), default=0.0) or 1.0
    for place, cost in enumerate(costs):
        at = 0.0
        for cause, ns in cost.items():
            colour = theme.area(cause.area)
            axes.barh(
                place, ns / 1e6, left=at / 1e6, height=_BAR_HEIGHT, color=colour, edgecolor=theme.background,
                linewidth=0.5, zorder=2,
            )  # fmt: skip
            texts = (f"{cause.label} {duration(ns)}", cause.label)
            fitting = [text for text in texts if len(text) * char_share * 1.18 * longest < ns]
            if fitting:
                axes.text(
                    (at + ns / 2) / 1e6, place, fitting[0], ha="center", va="center", fontsize=SMALL_SIZE - 0.5,
                    color=ink_on(colour), zorder=3,
                )  # fmt: skip
            at += ns
        text = duration(at) if cost else "none"
        axes.annotate(
            text, (at / 1e6, place), (4, 0), textcoords="offset points", va="center", fontsize=SMALL_SIZE,
            color=theme.ink if cost else theme.muted,
        )  # fmt: skip
    axes.set_xlim(0, 1.18 * longest / 1e6)
    axes.set_xlabel("milliseconds")
    axes.xaxis.set_major_locator(MaxNLocator(7, prune="upper"))
    axes.tick_params(axis="y", length=0)


def _add_legend(figure: Figure, bars: Sequence[Bar], theme: Theme) -> None:
    there = {cause.area for bar in bars for costs in (bar.ttft_ns, bar.gap_ns) for cause in costs}
    handles = [Patch(color=theme.area(area), label=area.value) for area in Area if area in there]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=TEXT_SIZE, frameon=False,
        labelcolor=theme.ink, handlelength=1.1, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def _title(data: LedgerBars) -> str:
    costs = data.mean.ttft_ns
    cause = max(costs, key=lambda one: costs[one])
    total = sum(costs.values())
    whose = "the mean request's" if len(data.ledgers) > 1 else f"{data.bars[0].name}'s"
    return (
        f"Where the time goes: {percent(costs[cause], total)} of {whose} {duration(total)} to the first token is "
        f"{cause.label}"
    )


def _notes(data: LedgerBars) -> list[str]:
    notes = []
    if len(data.bars) < len(data.ledgers):
        notes.append(
            f"The {len(data.bars)} requests with the longest time to first token, of {len(data.ledgers):,}; the "
            "mean is of all."
        )
    if len(data.ledgers) == 1 and len(data.ledgers[0].gaps) >= MAX_BARS:
        notes.append(f"The {MAX_BARS - 1} longest of {len(data.ledgers[0].gaps):,} gaps.")
    if len(data.ledgers) < data.num_requests:
        notes.append(
            f"{count(data.num_requests - len(data.ledgers), 'request')} not shown: not asked for, or without a token."
        )
    return notes
