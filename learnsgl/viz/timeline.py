"""The timeline of a recording: who did what when, from the first request to the last answer.

One lane a process, and two for the device: chunks of prompts and decode steps, coloured by request. Below it two
moments are enlarged until single messages can be seen: the first arrivals, and the handover between two decode steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from learnsgl.trace.reader import Trace
from learnsgl.viz.lanes import Lane, LanePainter, make_lanes
from learnsgl.viz.theme import LIGHT, Theme
from learnsgl.viz.timeline_data import DeviceStep, TimelineData, read_timeline

SIZE_INCHES = (9.0, 7.2)
DPI = 200
"""Twice what a page shows, so that it stays sharp; the sizes of the text are meant for 100 dots an inch."""

WindowNs = tuple[int, int]


def timeline(
    trace: Trace, *, theme: Theme = LIGHT, names: Mapping[int, str] | None = None
) -> tuple[Figure, TimelineData]:
    """Draw a recording.

    Args:
        trace: the recording, of level full for all of the figure; with less, what there is.
        theme: `theme.LIGHT` or `theme.DARK`.
        names: what to call requests, by id; the others are called by their ids.

    Returns:
        The figure (`figure.savefig(path)`; a notebook shows it by itself), and the numbers that it shows.

    Raises:
        TraceError: no request ran in the trace.
        TraceFormatError: the trace is broken.
    """
    data = read_timeline(trace)
    names = {visit.uid: (names or {}).get(visit.uid, str(visit.uid)) for visit in data.visits} | {
        uid: (names or {}).get(uid, str(uid)) for uid in data.uids
    }
    lanes = make_lanes(data)
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor=theme.background, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06, hspace=0.03)  # type: ignore[union-attr,call-arg]
    grid = figure.add_gridspec(2, 2)
    overview = figure.add_subplot(grid[0, :])
    _draw_overview(overview, data, lanes, theme, names)
    windows = [("A", "the requests arrive", arrivals_window(data))]
    if (handover := handover_window(data)) is not None:
        windows.append(("B", "from one decode step to the next", handover))
    for place, (letter, title, window) in enumerate(windows):
        axes = figure.add_subplot(grid[1, place])
        _draw_zoom(axes, data, lanes, theme, names, window, is_left=place == 0)
        axes.set_title(f"{letter}  {title}", loc="left", fontsize=9, color=theme.ink, fontweight="bold")
        _mark(overview, data, window, letter, theme)
    _add_legend(figure, data, theme, names)
    return figure, data


def arrivals_window(data: TimelineData) -> WindowNs:
    """From the first request until the first step runs, and those that came with it are tokenized."""
    first = next((step.forward_ns for step in data.steps if step.forward_ns is not None), None)
    start, until = first if first is not None else (data.origin_ns, data.end_ns)
    ends = [work.end_ns for work in data.work if work.kind == "tokenize" and work.start_ns < until]
    span = max([start, *ends]) - data.origin_ns
    return data.origin_ns - span // 12, data.origin_ns + span + span // 5


def handover_window(data: TimelineData) -> WindowNs | None:
    """Around the end of a decode step, until its text has reached the clients; the step is one of the fullest."""
    pairs = [
        (step, following)
        for step, following in zip(data.steps, data.steps[1:], strict=False)
        if not step.chunks and not following.chunks and step.sample_ns and following.forward_ns
    ]
    if not pairs:
        return None
    fullest = max(len(step.decodes) for step, _ in pairs)
    full = [step for step, _ in pairs if len(step.decodes) == fullest]
    step = full[len(full) // 2]
    assert step.sample_ns is not None, "only such steps are in the pairs"
    end_ns = _text_out_ns(data, step)
    span = end_ns - step.sample_ns[0]
    return step.sample_ns[0] - span // 5, end_ns + span // 5


def _text_out_ns(data: TimelineData, step: DeviceStep) -> int:
    """When the first text of a step was handed to all of its clients' sockets."""
    assert step.sample_ns is not None, "the step has run"
    after = step.sample_ns[1]
    chunks = [
        min((ns for ns in visit.chunks_ns if ns > after), default=None)
        for visit in data.visits
        if visit.uid in {run.uid for run in step.decodes}
    ]
    known = [ns for ns in chunks if ns is not None]
    return max(known, default=after + (step.sample_ns[1] - step.sample_ns[0]) * 10)


def _draw_overview(
    axes: Axes, data: TimelineData, lanes: Mapping[str, Lane], theme: Theme, names: Mapping[int, str]
) -> None:
    seconds = (data.end_ns - data.origin_ns) / 1e9
    painter = LanePainter(axes, data, lanes, theme, names, 1, (-0.025 * seconds, 1.01 * seconds))
    painter.label_lanes()
    painter.draw_work()
    painter.draw_steps(with_tokens=True)
    painter.draw_visits(with_names=True)
    axes.set_xlabel("seconds since the first request")


def _draw_zoom(
    axes: Axes, data: TimelineData, lanes: Mapping[str, Lane], theme: Theme, names: Mapping[int, str],
    window: WindowNs, *, is_left: bool,
) -> None:  # fmt: skip
    start, end = ((ns - data.origin_ns) / 1e6 for ns in window)
    painter = LanePainter(axes, data, lanes, theme, names, 1000, (start, end))
    if is_left:
        painter.label_lanes()
    painter.draw_work()
    painter.draw_steps(with_tokens=True)
    painter.draw_visits(with_names=is_left)
    painter.draw_messages()
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xlabel("milliseconds since the first request")


def _mark(axes: Axes, data: TimelineData, window: WindowNs, letter: str, theme: Theme) -> None:
    """Show in the overview what is enlarged below."""
    start, end = ((ns - data.origin_ns) / 1e9 for ns in window)
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    width = max(end - start, 0.004 * (right - left))
    axes.add_patch(
        Rectangle(
            (start, top), width, bottom - top, facecolor="none", edgecolor=theme.mark, lw=0.9, zorder=7, clip_on=False
        )
    )
    axes.annotate(
        letter,
        (start + width / 2, top),
        (0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9,
        fontweight="bold",
        color=theme.ink,
        annotation_clip=False,
    )


def _add_legend(figure: Figure, data: TimelineData, theme: Theme, names: Mapping[int, str]) -> None:
    groups: dict[str, list[int]] = {}
    for uid in data.uids:
        groups.setdefault(theme.request(uid), []).append(uid)
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=_group_label([names[uid] for uid in uids])) for colour, uids in groups.items()
    ]
    handles += [
        Patch(color=theme.work, label="CPU work, sampling"),
        Patch(color=theme.waiting, label="waits for the device"),
        Line2D([], [], color=theme.arrow, lw=0.9, marker=">", markersize=4, label="message"),
    ]
    legend = figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8.5, frameon=False,
        labelcolor=theme.ink, handlelength=1.2, columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip
    legend.set_in_layout(True)


def _group_label(names: list[str]) -> str:
    few = ", ".join(names[:3])
    return f"request {few}" if len(names) <= 3 else f"request {few}, …"
