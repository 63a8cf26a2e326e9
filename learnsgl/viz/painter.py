"""Drawing one panel of a timeline: bars for work, split bars for steps, arrows for messages, and their labels.

`timeline.py` makes one painter for each panel. Positions on the x axis are seconds or milliseconds since the first
request; those on the y axis are the heights of `lanes.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

from learnsgl.replay.history import DeviceStep, History, Message, Run
from learnsgl.viz.bars import Bars, Point, split
from learnsgl.viz.lanes import DECODE_LANE, PREFILL_LANE, Lane, Lanes
from learnsgl.viz.theme import Theme, ink_on
from learnsgl.viz.words import count

TEXT_SIZE = 8
MIN_NAME_HEIGHT = 0.2
"""A request's name doesn't fit into a thinner row."""
_CHAR_SHARE = 0.0135
"""About how much of a panel of half the figure's width a character takes; a safe guess is enough."""


class Painter:
    """Draws a recording into one panel.

    Args:
        axes: the panel.
        data: the recording.
        lanes: the figure's rows.
        theme: colours.
        names: what to call each request, by its id.
        per_second: units of the x axis in a second: 1 or 1000.
        window_ns: what the panel shows.
        width: share of the figure's width that the panel has.
        highlight: a request that keeps its colour while the others are grey; `None` colours all.
    """

    def __init__(
        self, axes: Axes, data: History, lanes: Lanes, theme: Theme, names: Mapping[int, str], *,
        per_second: float, window_ns: tuple[int, int], width: float, highlight: int | None = None,
    ) -> None:  # fmt: skip
        self._axes, self._data, self._lanes, self._theme, self._names = axes, data, lanes, theme, names
        self._per_second, self._highlight = per_second, highlight
        self._left, self._right = self.x(window_ns[0]), self.x(window_ns[1])
        self._char = (self._right - self._left) * _CHAR_SHARE * 0.5 / width
        chunked = [step for step in data.steps if step.chunks and step.forward_ns]
        self._next_chunk = {
            step.number: self.x(later.forward_ns[0])
            for step, later in itertools.pairwise(chunked)
            if later.forward_ns is not None
        }
        self._halo = withStroke(linewidth=2.4, foreground=theme.background)
        theme.style_axes(axes)
        axes.set_xlim(self._left, self._right)
        axes.set_ylim(lanes.bottom, 0)
        axes.set_yticks([])
        for lane in list(lanes.by_key.values())[::2]:
            axes.axhspan(lane.top, lane.bottom, color=theme.band, lw=0, zorder=0)

    def x(self, ns: int) -> float:
        """A moment on the x axis."""
        return (ns - self._data.origin_ns) / 1e9 * self._per_second

    def _colour(self, uid: int) -> str:
        return self._theme.request(uid) if self._highlight in (None, uid) else self._theme.faded

    def label_lanes(self) -> None:
        """Name the lanes at the left."""
        lanes = self._lanes.by_key.values()
        self._axes.set_yticks([lane.middle for lane in lanes])
        self._axes.set_yticklabels([lane.name for lane in lanes], linespacing=1.15)
        self._axes.tick_params(axis="y", length=0)

    # ------------------------------------------------------------ the lane of the API server

    def draw_visits(self, *, with_names: bool) -> None:
        """A line from each request's arrival to its answer, and a tick for each chunk of its stream."""
        for visit in self._data.visits:
            y, colour = self._lanes.visits[visit.uid], self._colour(visit.uid)
            start, end = self.x(visit.received_ns), self.x(visit.answered_ns or self._data.end_ns)
            self._axes.plot([start, end], [y, y], color=colour, lw=1.2, solid_capstyle="butt", zorder=2)
            chunks = [x for x in map(self.x, visit.chunks_ns) if self._left <= x <= self._right]
            half = 0.37 * self._lanes.visit_height
            self._axes.vlines(chunks, y - half, y + half, color=colour, lw=1.2, zorder=3)
            if with_names and self._lanes.visit_height > MIN_NAME_HEIGHT and self._left <= start <= self._right:
                self._text(self._names[visit.uid], (start, y), offset=(-3, 0), ha="right")

    # ------------------------------------------------------------ work on the CPU

    def draw_work(self, *, with_labels: bool) -> None:
        """What the processes did on the CPU, and how long the scheduler waited for the device."""
        bars = Bars()
        for work in self._data.work:
            if work.kind == "wait":
                y = self._lanes.by_key[work.process].middle
                self._bar(bars, work.start_ns, work.end_ns, (y - 0.05, 0.1), self._theme.waiting)
        for work in self._data.work:
            if work.kind != "wait":
                colour = self._colour(work.uids[0]) if work.kind == "tokenize" else self._theme.work
                inner = self._lanes.by_key[work.process].inner
                self._bar(bars, work.start_ns, work.end_ns, inner, colour, edge=colour)
        bars.add_to(self._axes, zorder=2)
        if with_labels:
            self._label_decisions()

    def _label_decisions(self) -> None:
        """Name the scheduler's work where there is room beside it. A submission belongs to the scheduling before it."""
        spans: list[tuple[str, float, float]] = []
        for work in self._data.work:
            start, end = self.x(work.start_ns), self.x(work.end_ns)
            if work.process != self._data.scheduler or work.kind == "wait" or end < self._left or start > self._right:
                continue
            if work.kind == "submit" and spans:
                spans[-1] = (*spans[-1][:2], end)
            else:
                spans.append((work.kind, start, end))
        y = self._lanes.by_key[self._data.scheduler].top + 0.24
        taken = self._left
        for place, (kind, start, end) in enumerate(spans):
            after = spans[place + 1][1] if place + 1 < len(spans) else self._right
            room = (len(kind) + 1) * self._char
            if start - taken > room:
                self._text(kind, (start, y), offset=(-3, 0), ha="right")
                taken = end
            elif after - end > room:
                self._text(kind, (end, y), offset=(3, 0))
                taken = end + room
            else:
                taken = end

    # ------------------------------------------------------------ the device

    def draw_steps(self, *, with_numbers: bool) -> None:
        """Each step's forward pass: chunks of prompts split by their tokens, decode runs in equal parts.

        Args:
            with_numbers: name each decode step that is wide enough, and its sampling.
        """
        bars = Bars()
        for step in self._data.steps:
            if step.forward_ns is None or step.sample_ns is None or not self._shows(step):
                continue
            small: list[Run] = []
            for lane, runs in ((PREFILL_LANE, step.chunks), (DECODE_LANE, step.decodes)):
                inner = self._lanes.by_key[lane].inner
                for run, part in split(runs, *inner):
                    colour = self._colour(run.uid)
                    self._bar(bars, *step.forward_ns, part, colour, edge=self._theme.background)
                    if run.is_prefill and not self._write_tokens(step, run, part):
                        small.append(run)
                if runs:
                    self._bar(bars, *step.sample_ns, inner, self._theme.work)
            self._label_beside(step, small)
            if with_numbers and not step.chunks:
                self._label_decode(step)
        bars.add_to(self._axes, zorder=3)

    def _shows(self, step: DeviceStep) -> bool:
        assert step.forward_ns is not None
        assert step.sample_ns is not None
        return self.x(step.sample_ns[1]) > self._left and self.x(step.forward_ns[0]) < self._right

    def _write_tokens(self, step: DeviceStep, run: Run, part: Point) -> bool:
        """Write a chunk's tokens into it, where there is room; returns whether there was."""
        assert step.forward_ns is not None
        left, right = self._clip(step.forward_ns)
        texts = (count(run.num_tokens, "token"), f"{run.num_tokens:,}")
        fitting = [text for text in texts if len(text) * self._char < right - left]
        if not fitting or part[1] <= 0.3:
            return False
        place = (left + right) / 2, part[0] + part[1] / 2
        self._text(fitting[0], place, ha="center", colour=ink_on(self._colour(run.uid)))
        return True

    def _label_beside(self, step: DeviceStep, small: list[Run]) -> None:
        """Beside a step's bar: chunks that had no room in it, alone in their step or mostly from the cache."""
        assert step.forward_ns is not None
        cached = {run.uid: self._data.cached_tokens.get(run.uid, 0) for run in small}
        told = [run for run in small if len(step.chunks) == 1 or cached[run.uid] > run.num_tokens]
        told = [run for run in told if self._highlight in (None, run.uid)]
        if not told:
            return
        name = self._names[told[0].uid] if len(told) == 1 else f"{len(told)} requests"
        lines = [f"{name}: {count(sum(run.num_tokens for run in told), 'token')}"]
        from_cache = sum(cached[run.uid] for run in told if cached[run.uid] > run.num_tokens)
        lines += [f"{from_cache:,} from the cache"] if from_cache else []
        right = self._clip(step.forward_ns)[1]
        if self._next_chunk.get(step.number, self._right) - right > max(map(len, lines)) * self._char:
            box = {"boxstyle": "square,pad=0.1", "facecolor": self._theme.background, "edgecolor": "none"}
            place = right, self._lanes.by_key[PREFILL_LANE].middle
            self._text("\n".join(lines), place, offset=(4, 0), bbox=box)

    def _label_decode(self, step: DeviceStep) -> None:
        assert step.forward_ns is not None
        assert step.sample_ns is not None
        y = self._lanes.by_key[DECODE_LANE].middle
        for span, text, colour in (
            (step.forward_ns, f"step {step.number}", self._theme.ink),
            (step.sample_ns, "sampling", self._theme.background),
        ):
            left, right = self._clip(span)
            if right - left > len(text) * self._char:
                is_forward = span is step.forward_ns
                box = {"boxstyle": "round,pad=0.25", "facecolor": self._theme.background, "edgecolor": "none"}
                self._text(
                    text, ((left + right) / 2, y), ha="center", colour=colour, bbox=box if is_forward else None
                )  # fmt: skip

    # ------------------------------------------------------------ messages

    def draw_messages(self) -> None:
        """An arrow for each message in the panel, and the name of each kind once."""
        named: set[str] = set()
        for message in self._data.messages:
            start = self.x(message.sent_ns), self._end_of(message.sender, message)
            stop = self.x(message.received_ns), self._end_of(message.receiver, message)
            if stop[0] < self._left or start[0] > self._right:
                continue
            is_single = len(set(message.uids)) == 1
            colour = self._colour(message.uids[0]) if is_single else self._theme.arrow
            arrow = FancyArrowPatch(
                start, stop, arrowstyle="-|>", mutation_scale=7, lw=0.9, color=colour, shrinkA=0, shrinkB=0, zorder=5,
                path_effects=[self._halo],
            )  # fmt: skip
            self._axes.add_patch(arrow)
            kind = message.kinds.partition("*")[0]
            if kind not in named and self._left <= start[0] and stop[0] <= self._right:
                named.add(kind)
                self._name_message(kind, start, stop)

    def _name_message(self, kind: str, start: Point, stop: Point) -> None:
        """Beside the arrow: in the emptier lane of the device where it crosses that, else before its end."""
        lane = self._emptier_device_lane()
        if min(start[1], stop[1]) < lane.top and max(start[1], stop[1]) > lane.bottom:
            is_upward = stop[1] < start[1]
            y = lane.middle + (0.25 if is_upward else -0.25)
            x = start[0] + (stop[0] - start[0]) * (y - start[1]) / (stop[1] - start[1])
            self._beside(kind, (x, y), to_left=not is_upward)
        else:
            is_from_api = "api" in self._keys_at(start[1])
            share = 0.5
            if is_from_api:  # in the lane itself are the names of the requests
                share = (self._lanes.by_key["api"].bottom - start[1]) / (stop[1] - start[1])
            place = start[0] + share * (stop[0] - start[0]), start[1] + share * (stop[1] - start[1])
            self._beside(kind, place, to_left=not is_from_api)

    def _beside(self, text: str, place: Point, *, to_left: bool) -> None:
        has_room = place[0] - self._left > (len(text) + 3) * self._char
        is_left = to_left and has_room
        self._text(text, place, offset=(-5, 0) if is_left else (5, 0), ha="right" if is_left else "left")

    def _keys_at(self, y: float) -> list[str]:
        return [key for key, lane in self._lanes.by_key.items() if lane.top <= y < lane.bottom]

    def _emptier_device_lane(self) -> Lane:
        shown = [step for step in self._data.steps if step.forward_ns and step.sample_ns and self._shows(step)]
        has_chunks = any(step.chunks for step in shown)
        return self._lanes.by_key[DECODE_LANE if has_chunks else PREFILL_LANE]

    def _end_of(self, process: str, message: Message) -> float:
        """The height at which an arrow begins or ends: at the API server in the row of its request."""
        if process == "api" and len(set(message.uids)) == 1 and message.uids[0] in self._lanes.visits:
            return self._lanes.visits[message.uids[0]]
        return self._lanes.by_key[process].middle

    # ------------------------------------------------------------ strokes

    def _clip(self, span_ns: tuple[int, int]) -> Point:
        start, end = (min(max(self.x(ns), self._left), self._right) for ns in span_ns)
        return start, end

    def _bar(self, bars: Bars, start_ns: int, end_ns: int, inner: Point, colour: str, edge: str = "none") -> None:
        start, end = self.x(start_ns), self.x(end_ns)
        if end >= self._left and start <= self._right:
            bars.add(start, end, inner, colour, edge)

    def _text(
        self, text: str, place: Point, *, offset: Point = (0, 0), ha: str = "left", colour: str | None = None,
        bbox: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        effects = [self._halo] if colour is None else []
        self._axes.annotate(
            text, place, offset, textcoords="offset points", ha=ha, va="center", fontsize=TEXT_SIZE, zorder=6,
            color=colour or self._theme.ink, path_effects=effects, annotation_clip=False, bbox=bbox,
        )  # fmt: skip
