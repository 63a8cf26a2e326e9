"""The timeline of a recording: who did what when, from the first request to the last answer.

One lane a process, and two for the device: chunks of prompts and decode steps, coloured by request. Below it two
moments are enlarged until single messages can be seen: the first arrivals, and the handover between two decode steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from learnsgl.errors import TraceError
from learnsgl.replay.history import DeviceStep, History, read_history
from learnsgl.viz.lanes import Lanes
from learnsgl.viz.painter import Painter
from learnsgl.viz.recording import Recording, missing_notes, trace_of
from learnsgl.viz.sheet import finish, new_figure, subtitle
from learnsgl.viz.theme import LIGHT, Theme
from learnsgl.viz.words import count, duration, listed

HEIGHT_INCHES = 7.8

WindowNs = tuple[int, int]


def timeline(
    trace: Recording,
    *,
    theme: Theme = LIGHT,
    names: Mapping[int, str] | None = None,
    title: str | None = None,
    highlight: int | None = None,
) -> tuple[Figure, History]:
    """Draw a recording.

    Args:
        trace: the recording, of level full for all of the figure; with less, what there is.
        theme: `theme.LIGHT` or `theme.DARK`.
        names: what to call requests, by id; the others are called by their ids.
        title: what is to be seen, instead of numbers; the model, the device and the policy are written below it.
        highlight: a request that keeps its colour while the others are grey; the panels below then show its arrival,
            and a step in which it decodes.

    Returns:
        The figure (`figure.savefig(path)`; a notebook shows it by itself), and the numbers that it shows.

    Raises:
        TraceError: no request ran in the trace, or not the one to highlight.
        TraceFormatError: the trace is broken.
    """
    trace = trace_of(trace)
    data = read_history(trace)
    if highlight is not None and highlight not in data.uids:
        raise TraceError(
            f"{trace.path}: request {highlight} did not run in this recording; "
            f"these did: {listed([str(uid) for uid in data.uids], 20)}"
        )
    called = {uid: (names or {}).get(uid, str(uid)) for uid in data.uids}
    figure = new_figure(theme, HEIGHT_INCHES)
    _Layout(figure, data, Lanes(data), theme, called, highlight).draw()
    finish(figure, theme, title or _title(data), subtitle=subtitle(trace), notes=missing_notes(trace))
    return figure, data


def _title(data: History) -> str:
    whole = duration(data.end_ns - data.origin_ns)
    return f"Who did what when: {count(len(data.uids), 'request')} in {count(len(data.steps), 'step')}, {whole}"


def arrival_window(data: History, uid: int) -> WindowNs:
    """From the arrival of a request until the first step that it is in runs."""
    first = next(step for step in data.steps if any(run.uid == uid for run in step.runs))
    starts = [visit.received_ns for visit in data.visits if visit.uid == uid]
    start = min(starts, default=first.forward_ns[0] if first.forward_ns else data.origin_ns)
    span = max((first.forward_ns or (data.end_ns, data.end_ns))[0] - start, 1)
    return start - span // 12, start + span + span // 5


def arrivals_window(data: History) -> WindowNs:
    """From the first request until the first step runs, and those that came with it are tokenized."""
    first = next((step.forward_ns for step in data.steps if step.forward_ns is not None), None)
    start, until = first if first is not None else (data.origin_ns, data.end_ns)
    ends = [work.end_ns for work in data.work if work.kind == "tokenize" and work.start_ns < until]
    span = max([start, *ends]) - data.origin_ns
    return data.origin_ns - span // 12, data.origin_ns + span + span // 5


def handover_window(data: History, uid: int | None = None) -> WindowNs | None:
    """Around the end of a decode step, until its text has reached the clients; the step is one of the fullest.

    Args:
        data: the recording.
        uid: a request that decodes in the step; by default any.
    """
    pairs = [
        (step, following)
        for step, following in itertools.pairwise(data.steps)
        if not step.chunks
        and not following.chunks
        and step.sample_ns
        and following.forward_ns
        and (uid is None or any(run.uid == uid for run in step.decodes))
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


def _text_out_ns(data: History, step: DeviceStep) -> int:
    """When the text of a step had been handed to its clients' sockets."""
    assert step.sample_ns is not None, "the step has run"
    after = step.sample_ns[1]
    decoding = {run.uid for run in step.decodes}
    visits = [visit for visit in data.visits if visit.uid in decoding]
    chunks = [min((ns for ns in visit.chunks_ns if ns > after), default=None) for visit in visits]
    known = [ns for ns in chunks if ns is not None]
    return max(known, default=after + (step.sample_ns[1] - step.sample_ns[0]) * 10)


class _Layout:
    """The panels of one figure."""

    def __init__(
        self, figure: Figure, data: History, lanes: Lanes, theme: Theme, names: Mapping[int, str],
        highlight: int | None,
    ) -> None:  # fmt: skip
        self._figure, self._data, self._lanes, self._theme, self._names = figure, data, lanes, theme, names
        self._highlight = highlight

    def draw(self) -> None:
        """All panels and the legend."""
        grid = self._figure.add_gridspec(2, 2)
        overview = self._figure.add_subplot(grid[0, :])
        self._draw_overview(overview)
        if self._highlight is None:
            windows = [("the requests arrive", arrivals_window(self._data))]
        else:
            name = self._names[self._highlight]
            windows = [(f"request {name} arrives", arrival_window(self._data, self._highlight))]
        if (handover := handover_window(self._data, self._highlight)) is not None:
            windows.append(("from one decode step to the next", handover))
        for place, (title, window_ns) in enumerate(windows):
            letter = "AB"[place]
            axes = self._figure.add_subplot(grid[1, place])
            self._draw_zoom(axes, window_ns, is_left=place == 0)
            axes.set_title(f"{letter}  {title}", loc="left", fontsize=9, color=self._theme.ink, fontweight="bold")
            self._mark(overview, window_ns, letter)
        self._add_legend()

    def _painter(self, axes: Axes, per_second: float, window_ns: WindowNs, width: float) -> Painter:
        return Painter(
            axes, self._data, self._lanes, self._theme, self._names,
            per_second=per_second, window_ns=window_ns, width=width, highlight=self._highlight,
        )  # fmt: skip

    def _draw_overview(self, axes: Axes) -> None:
        span = self._data.end_ns - self._data.origin_ns
        window_ns = self._data.origin_ns - span // 40, self._data.end_ns + span // 100
        painter = self._painter(axes, 1, window_ns, 1.0)
        painter.label_lanes()
        painter.draw_work(with_labels=False)
        painter.draw_steps(with_numbers=False)
        painter.draw_visits(with_names=True)
        axes.set_xlabel("seconds since the first request")

    def _draw_zoom(self, axes: Axes, window_ns: WindowNs, *, is_left: bool) -> None:
        painter = self._painter(axes, 1000, window_ns, 0.5)
        if is_left:
            painter.label_lanes()
        painter.draw_work(with_labels=not is_left)  # the left panel has no room for them
        painter.draw_steps(with_numbers=True)
        painter.draw_visits(with_names=is_left)
        painter.draw_messages()
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set_xlabel("milliseconds since the first request")

    def _mark(self, axes: Axes, window_ns: WindowNs, letter: str) -> None:
        """Show in the overview what is enlarged below."""
        start, end = ((ns - self._data.origin_ns) / 1e9 for ns in window_ns)
        left, right = axes.get_xlim()
        width = max(end - start, 0.004 * (right - left))
        frame = Rectangle(
            (start, 0), width, self._lanes.bottom, facecolor="none", edgecolor=self._theme.mark, lw=0.9, zorder=5,
            clip_on=False,
        )  # fmt: skip
        axes.add_patch(frame)
        axes.annotate(
            letter, (start + width / 2, 0), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=9,
            fontweight="bold", color=self._theme.ink, annotation_clip=False,
        )  # fmt: skip

    def _add_legend(self) -> None:
        theme = self._theme
        groups: dict[str, list[str]] = {}
        for uid in self._data.uids if self._highlight is None else (self._highlight,):
            groups.setdefault(theme.request(uid), []).append(self._names[uid])
        labels = [", ".join(names[:3]) + (", …" if len(names) > 3 else "") for names in groups.values()]
        handles: list[Patch | Line2D] = [
            Patch(color=colour, label=label if place else f"request {label}")
            for place, (colour, label) in enumerate(zip(groups, labels, strict=True))
        ]
        if self._highlight is not None and len(self._data.uids) > 1:
            handles.append(Patch(color=theme.faded, label="other requests"))
        handles += [
            Line2D([], [], color=theme.muted, lw=0, marker="|", markersize=8, mew=1.2, label="sent to the client"),
            Patch(color=theme.work, label="CPU work, sampling"),
            Patch(color=theme.waiting, label="waits for the device"),
            Line2D([], [], color=theme.arrow, lw=0.9, marker=">", markersize=4, label="message"),
        ]
        num_columns = len(handles) if len(handles) <= 8 else (len(handles) + 1) // 2
        self._figure.legend(
            handles=handles, loc="outside lower center", ncols=num_columns, fontsize=8.5, frameon=False,
            labelcolor=theme.ink, handlelength=1.2, columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip
