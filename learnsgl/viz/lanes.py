"""Drawing into lanes: one row a process, bars for work, split bars for steps, arrows for messages.

`timeline.py` calls it once for each panel of its figure. Positions on the x axis are seconds or milliseconds since the
first request; positions on the y axis count lanes from the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.patheffects import withStroke

from learnsgl.viz.theme import Theme, ink_on
from learnsgl.viz.timeline_data import Message, Run, TimelineData

VISIT_HEIGHT = 0.3
"""Of one request in the lane of the API server."""
WORK_KINDS = ("schedule", "submit", "commit", "tokenize", "detokenize")


@dataclass(frozen=True)
class Lane:
    """One row.

    Attributes:
        name: what stands beside it.
        top: its upper edge.
        height: of it.
    """

    name: str
    top: float
    height: float

    @property
    def middle(self) -> float:
        """Its centre."""
        return self.top + self.height / 2

    def inner(self, margin: float = 0.14) -> tuple[float, float]:
        """Upper edge and height of what is drawn in it."""
        return self.top + margin, self.height - 2 * margin


def make_lanes(data: TimelineData) -> dict[str, Lane]:
    """The lanes of a trace by the name of their process, and those of the device as `prefill` and `decode`."""
    rows: list[tuple[str, str, float]] = []
    for process in data.processes:
        height = max(1.0, 0.4 + VISIT_HEIGHT * len(data.visits)) if process == "api" else 0.8
        if process == data.scheduler:
            rows.append((process, f"{process}\nschedules", 0.8))
            rows += [("prefill", "its device:\nprompt chunks", 1.2), ("decode", "its device:\ndecode steps", 1.2)]
        elif process == "api" or not process.startswith("scheduler"):
            rows.append((process, "api" if process == "api" else process, height))
    lanes, top = {}, 0.0
    for key, name, height in rows:
        lanes[key] = Lane(name, top, height)
        top += height
    return lanes


class LanePainter:
    """Draws a trace into one panel.

    Args:
        axes: the panel.
        data: the trace.
        lanes: from `make_lanes`.
        theme: colours.
        names: what to call each request, by its id.
        per_second: units of the x axis in a second: 1 or 1000.
        window: what the panel shows, in units of its x axis.
    """

    def __init__(
        self,
        axes: Axes,
        data: TimelineData,
        lanes: Mapping[str, Lane],
        theme: Theme,
        names: Mapping[int, str],
        per_second: float,
        window: tuple[float, float],
    ) -> None:
        self._axes, self._data, self._lanes, self._theme, self._names = axes, data, lanes, theme, names
        self._per_second = per_second
        self._window = window
        theme.style_axes(axes)
        axes.set_xlim(*window)
        last = list(lanes.values())[-1]
        axes.set_ylim(last.top + last.height, 0)
        axes.set_yticks([])
        for place, lane in enumerate(lanes.values()):
            if place % 2 == 0:
                axes.axhspan(lane.top, lane.top + lane.height, color=theme.band, lw=0, zorder=0)

    def label_lanes(self) -> None:
        """Name the lanes at the left."""
        self._axes.set_yticks([lane.middle for lane in self._lanes.values()])
        self._axes.set_yticklabels([lane.name for lane in self._lanes.values()], linespacing=1.15)
        self._axes.tick_params(axis="y", length=0)

    def x(self, ns: int) -> float:
        """A moment on the x axis."""
        return (ns - self._data.origin_ns) / 1e9 * self._per_second

    def draw_visits(self, with_names: bool) -> None:
        """In the lane of the API server: a line from each request's arrival to its answer, a tick for each chunk."""
        for uid, y in self._visit_rows():
            visit = next(visit for visit in self._data.visits if visit.uid == uid)
            colour = self._theme.request(uid)
            end = self.x(visit.answered_ns if visit.answered_ns is not None else self._data.end_ns)
            start = self.x(visit.received_ns)
            self._axes.plot([start, end], [y, y], color=colour, lw=1.2, solid_capstyle="butt", zorder=2)
            chunks = [self.x(ns) for ns in visit.chunks_ns]
            half = VISIT_HEIGHT * 0.36
            self._axes.vlines(chunks, y - half, y + half, color=colour, lw=1.1, zorder=3)
            if with_names and self._window[0] <= start <= self._window[1]:
                self._axes.annotate(
                    self._names[uid], (start, y), (-3, 0), textcoords="offset points", ha="right", va="center",
                    fontsize=8, color=self._theme.ink, annotation_clip=False,
                )  # fmt: skip

    def draw_work(self) -> None:
        """What the processes did on the CPU, and how long the scheduler waited for the device."""
        for work in self._data.work:
            lane = self._lanes.get(work.process)
            if lane is None:
                continue
            if work.kind == "wait":
                self._bar(work.start_ns, work.end_ns, lane.middle - 0.06, 0.12, self._theme.waiting, zorder=1.5)
            else:
                top, height = lane.inner()
                colour = self._theme.request(work.uids[0]) if work.kind == "tokenize" else self._theme.work
                self._bar(work.start_ns, work.end_ns, top, height, colour, edge=colour)

    def draw_steps(self, with_tokens: bool) -> None:
        """Each step's forward pass: chunks of prompts split by their tokens, decode runs in equal parts."""
        for step in self._data.steps:
            if step.forward_ns is None or step.sample_ns is None:
                continue
            for key, runs in (("prefill", step.chunks), ("decode", step.decodes)):
                top, height = self._lanes[key].inner()
                for run, y, part in _split(runs, top, height):
                    self._run_bar(step.forward_ns, y, part, run, with_tokens and run.is_prefill)
                if runs:
                    self._bar(*step.sample_ns, top, height, self._theme.work)

    def draw_messages(self) -> None:
        """An arrow for each message that falls into the panel, and the name of each kind once."""
        named: set[str] = set()
        for message in self._data.messages:
            sent, received = self.x(message.sent_ns), self.x(message.received_ns)
            if received < self._window[0] or sent > self._window[1]:
                continue
            start = sent, self._end_of(message.sender, message)
            stop = received, self._end_of(message.receiver, message)
            colour = self._theme.request(message.uids[0]) if len(set(message.uids)) == 1 else self._theme.arrow
            halo = withStroke(linewidth=2.4, foreground=self._theme.background)
            arrow = FancyArrowPatch(
                start, stop, arrowstyle="-|>", mutation_scale=7, lw=0.9, color=colour, shrinkA=0, shrinkB=0, zorder=5,
                path_effects=[halo],
            )  # fmt: skip
            self._axes.add_patch(arrow)
            kind = message.kinds.partition("*")[0]
            inside = self._window[0] <= sent and received <= self._window[1]
            if kind not in named and inside:
                named.add(kind)
                self._name_message(kind, start, stop, halo)

    def _name_message(self, kind: str, start: tuple[float, float], stop: tuple[float, float], halo: withStroke) -> None:
        upwards = stop[1] < start[1]
        along = 0.62 if upwards else 0.5
        x, y = (a + (b - a) * along for a, b in zip(start, stop, strict=True))
        self._axes.annotate(
            kind, (x, y), (4, 0), textcoords="offset points", ha="left", va="center", fontsize=7.5,
            color=self._theme.ink, path_effects=[halo], zorder=6,
        )  # fmt: skip

    def _end_of(self, process: str, message: Message) -> float:
        """The height at which an arrow begins or ends."""
        rows = dict(self._visit_rows()) if process == "api" else {}
        if len(set(message.uids)) == 1 and message.uids[0] in rows:
            return rows[message.uids[0]]
        return self._lanes[process].middle

    def _visit_rows(self) -> Iterator[tuple[int, float]]:
        if "api" not in self._lanes:
            return
        top, height = self._lanes["api"].inner(0.2)
        for place, visit in enumerate(self._data.visits):
            yield visit.uid, top + height * (place + 0.5) / len(self._data.visits)

    def _bar(
        self, start_ns: int, end_ns: int, top: float, height: float, colour: str, edge: str = "none", zorder: float = 2
    ) -> None:
        x = self.x(start_ns)
        self._axes.add_patch(
            Rectangle((x, top), self.x(end_ns) - x, height, facecolor=colour, edgecolor=edge, lw=0.5, zorder=zorder)
        )

    def _run_bar(self, forward_ns: tuple[int, int], top: float, height: float, run: Run, with_tokens: bool) -> None:
        colour = self._theme.request(run.uid)
        self._bar(*forward_ns, top, height, colour, edge=self._theme.background)
        left, right = (min(max(self.x(ns), self._window[0]), self._window[1]) for ns in forward_ns)
        is_wide = right - left > 0.045 * (self._window[1] - self._window[0])
        if with_tokens and is_wide and height > 0.3:
            self._axes.text(
                (left + right) / 2, top + height / 2, f"{run.num_tokens}", ha="center", va="center", fontsize=8,
                color=ink_on(colour), zorder=3,
            )  # fmt: skip


def _split(runs: tuple[Run, ...], top: float, height: float) -> Iterator[tuple[Run, float, float]]:
    total = sum(run.num_tokens for run in runs)
    for run in runs:
        part = height * run.num_tokens / total
        yield run, top, part
        top += part


Formatter = Callable[[float, int], str]
