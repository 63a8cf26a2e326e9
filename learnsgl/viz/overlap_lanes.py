"""Overlap scheduling as lanes: the scheduler's work, hidden behind the device's or exposed, and the device's idle time.

The lesson that compares `--no-overlap` draws it twice. A few steps are enlarged above; the shares below are those of
the whole recording.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from learnsgl.viz.overlap_data import CPU_KINDS, Overlap, handover_window, read_overlap, typical_window
from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, TEXT_SIZE, finish, new_figure, panel_title, subtitle
from learnsgl.viz.spans import Span, common, length
from learnsgl.viz.theme import LIGHT, Theme, ink_on
from learnsgl.viz.words import count, duration, percent

HEIGHT_INCHES = 4.5
_LANES = ("scheduler", "device")
_BAR_HEIGHT = 0.6
_CHAR_SHARE = 0.018
_SHARE_CHAR = 1.15
_Label = tuple[float, float, list[str]]
"""Beginning and end of a bar, and the names of what it is."""


def overlap_lanes(trace: Recording, *, window_ns: Span | None = None, theme: Theme = LIGHT) -> tuple[Figure, Overlap]:
    """Draw which of the scheduler's work the device hides.

    Args:
        trace: the recording; at level steps, handing steps to the device is missing from the work.
        window_ns: moments to enlarge, on `time.monotonic_ns`; by default four decode steps of the fullest kind.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the spans that it shows.

    Raises:
        TraceError: no step ran, or no step's time on the device is in the trace.
    """
    trace = trace_of(trace)
    data = read_overlap(trace)
    window_ns = window_ns or typical_window(data)
    handover_ns = handover_window(data, window_ns)
    figure = new_figure(theme, HEIGHT_INCHES)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2.2))
    lanes = figure.add_subplot(grid[0, :] if handover_ns is None else grid[0, 0])
    _draw_lanes(lanes, data, window_ns, theme, has_names=True)
    panel_title(lanes, theme, "A few steps")
    if handover_ns is not None:
        handover = figure.add_subplot(grid[0, 1])
        _draw_lanes(handover, data, handover_ns, theme, has_names=False)
        panel_title(handover, theme, "From one of them to the next")
        _name_work(handover, data, handover_ns, theme)
    _draw_shares(figure.add_subplot(grid[1, :]), data, theme)
    _add_legend(figure, theme)
    title = (
        f"The device hides {percent(length(data.hidden), data.cpu_ns)} of the scheduler's work, and is busy "
        f"{percent(length(data.busy), data.end_ns - data.start_ns)} of the time"
    )
    finish(figure, theme, title, subtitle=subtitle(trace), notes=data.notes)
    return figure, data


def _draw_lanes(axes: Axes, data: Overlap, window_ns: Span, theme: Theme, *, has_names: bool) -> None:
    theme.style_axes(axes)
    window = [window_ns]

    def draw(place: int, spans: Sequence[Span], colour: str) -> None:
        shown = common(list(spans), window)
        bars = [((start - window_ns[0]) / 1e6, (end - start) / 1e6) for start, end in shown]
        axes.broken_barh(
            bars, (place - _BAR_HEIGHT / 2, _BAR_HEIGHT), facecolors=colour, edgecolors=colour, lw=0.6, zorder=2
        )

    for place in range(2):
        axes.axhspan(place - 0.42, place + 0.42, color=theme.band, lw=0, zorder=0)
    draw(0, data.hidden, theme.hidden)
    draw(0, data.exposed, theme.exposed)
    draw(1, data.busy, theme.work)
    draw(1, data.exposed, theme.free)
    draw(1, data.idle, theme.free)
    width = (window_ns[1] - window_ns[0]) / 1e6
    _name_steps(axes, data, window_ns, theme)
    axes.set_yticks(range(2), _LANES if has_names else ("", ""))
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, width)
    axes.set_ylim(1.45, -0.72)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"ms, from {duration(window_ns[0] - data.start_ns)} after the start on")


def _add_legend(figure: Figure, theme: Theme) -> None:
    entries = (
        (theme.hidden, "work that the device hides"), (theme.exposed, "exposed work"), (theme.work, "the device works"),
        (theme.free, "the device is idle"),
    )  # fmt: skip
    figure.legend(
        handles=[Patch(color=colour, label=name) for colour, name in entries], loc="outside lower center", ncols=4,
        fontsize=TEXT_SIZE, frameon=False, labelcolor=theme.ink, handlelength=1.2, handletextpad=0.5,
    )  # fmt: skip


def _name_steps(axes: Axes, data: Overlap, window_ns: Span, theme: Theme) -> None:
    width = (window_ns[1] - window_ns[0]) / 1e6
    for step in data.history.steps:
        if step.forward_ns is None or step.sample_ns is None:
            continue
        shown = common([(step.forward_ns[0], step.sample_ns[1])], [window_ns])
        texts = (f"step {step.number}: {duration(step.sample_ns[1] - step.forward_ns[0])}", f"step {step.number}")
        for start, end in shown:
            fitting = [text for text in texts if (end - start) / 1e6 > len(text) * _CHAR_SHARE * width]
            if fitting:
                axes.text(
                    ((start + end) / 2 - window_ns[0]) / 1e6, 1, fitting[0], ha="center", va="center",
                    fontsize=TEXT_SIZE, color=ink_on(theme.work), zorder=3,
                )  # fmt: skip


def _name_work(axes: Axes, data: Overlap, window_ns: Span, theme: Theme) -> None:
    """Name the scheduler's work above its bars; names that would touch become one."""
    width = (window_ns[1] - window_ns[0]) / 1e6
    labels: list[_Label] = []
    for work in data.history.work:
        if work.process != data.history.scheduler or work.kind not in CPU_KINDS:
            continue
        start, end = (work.start_ns - window_ns[0]) / 1e6, (work.end_ns - window_ns[0]) / 1e6
        if start < 0 or end > width:
            continue
        labels.append((start, end, [work.kind]))
        while len(labels) > 1 and _touch(labels[-2], labels[-1], width):
            later, before = labels.pop(), labels.pop()
            labels.append((before[0], later[1], [*before[2], *later[2]]))
    for start, end, kinds in labels:
        axes.text(
            (start + end) / 2, -0.47, ", ".join(kinds), ha="center", va="center", fontsize=SMALL_SIZE, color=theme.ink
        )


def _touch(one: _Label, other: _Label, width: float) -> bool:
    """Whether two names, each above the middle of its bar, would run into each other."""
    num_chars = len(", ".join(one[2])) + len(", ".join(other[2])) + 4
    distance = (other[0] + other[1]) / 2 - (one[0] + one[1]) / 2
    return distance < num_chars / 2 * _CHAR_SHARE * width


def _draw_shares(axes: Axes, data: Overlap, theme: Theme) -> None:
    """Two stacked bars over the whole recording: the scheduler's work, and the device's time."""
    theme.style_axes(axes)
    bars = (
        [("hidden", length(data.hidden), theme.hidden), ("exposed", length(data.exposed), theme.exposed)],
        [
            ("busy", length(data.busy), theme.work),
            ("idle: the scheduler works", length(data.exposed), theme.exposed),
            ("idle for other reasons", length(data.idle), theme.free),
        ],
    )
    for place, parts in enumerate(bars):
        total = sum(size for _, size, _ in parts) or 1
        at = 0.0
        outside: list[str] = []
        for name, size, colour in parts:
            share = 100 * size / total
            axes.barh(place, share, left=at, height=_BAR_HEIGHT, color=colour, linewidth=0)
            words = f"{name} {percent(size, total)}, {duration(size)}"
            if share > len(words) * _SHARE_CHAR:
                axes.text(
                    at + share / 2, place, words, ha="center", va="center", fontsize=TEXT_SIZE, color=ink_on(colour)
                )
            else:
                outside.append(words)
            at += share
        axes.text(101, place, "\n".join(outside), ha="left", va="center", fontsize=SMALL_SIZE, color=theme.ink)
    axes.set_yticks(range(2), [f"{_LANES[0]}'s work", f"{_LANES[1]}'s time"])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(1.5, -0.5)
    axes.set_xlim(0, 132)
    axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
    whole = f"The whole: {count(len(data.history.steps), 'step')}, {duration(data.end_ns - data.start_ns)}"
    panel_title(axes, theme, whole)
