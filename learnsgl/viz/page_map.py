"""KV pages as a map in time: a column a step, a line a page, and the colour says who holds it.

Lessons on paging and on the prefix cache draw it. A long recording is thinned to every n-th step, and many pages to
every n-th page, so that no colour is a mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learnsgl.trace.reader import Trace
from learnsgl.viz.owners import Owner, colours_of, key_of, owners_of
from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, finish, key, new_figure, subtitle, whole_numbers
from learnsgl.viz.states import StateWalk
from learnsgl.viz.theme import LIGHT, Theme, ink_on
from learnsgl.viz.words import count

Number = TypeVar("Number", np.uint8, np.int64)

HEIGHT_INCHES = 4.6
MAX_COLUMNS = 600
MAX_LINES = 400
MIN_LABEL_SHARE = 0.03
"""More columns or lines than that can't be told apart at the width of a page; in a thinner bar no number fits."""


class Axis(Enum):
    """What the columns are laid out by."""

    STEP = "step"
    TIME = "time"


@dataclass(frozen=True)
class PageMap:
    """What the map shows.

    Attributes:
        steps: number of the step of each column, int64 [num_columns].
        times_ns: when each step was submitted, int64 [num_columns], and the end of the recording as one more.
        pages: page number of each line, int64 [num_lines].
        kinds: `Owner` of each page after each step, uint8 [num_lines, num_columns].
        uids: the request that holds it alone, int64 [num_lines, num_columns]; 0 where no single one does.
        num_pages: pages in all.
        num_used: pages with the numbers below this one were used at some time; the others never.
        page_size: tokens a page.
        fullest: (step, pages held) where the most pages were held; of all steps, also those that have no column.
        notes: what isn't shown.
    """

    steps: npt.NDArray[np.int64]
    times_ns: npt.NDArray[np.int64]
    pages: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    uids: npt.NDArray[np.int64]
    num_pages: int
    num_used: int
    page_size: int
    fullest: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def requests(self) -> tuple[int, ...]:
        """Requests that hold a page alone somewhere in the map."""
        return tuple(np.unique(self.uids[self.kinds == Owner.REQUEST]).tolist())


def page_map(trace: Recording, *, axis: Axis = Axis.STEP, theme: Theme = LIGHT) -> tuple[Figure, PageMap]:
    """Draw who held which KV page when.

    Args:
        trace: the recording, of level full.
        axis: whether columns are as wide as each other (`Axis.STEP`) or as their steps were long (`Axis.TIME`).
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the map that it shows.

    Raises:
        TraceError: no step ran, or pages were not recorded.
    """
    trace = trace_of(trace)
    data = read_page_map(trace)
    figure = new_figure(theme, HEIGHT_INCHES)
    axes = figure.add_subplot()
    theme.style_axes(axes)
    _draw(axes, data, axis, theme)
    key(axes, theme, key_of(data.requests, theme))
    step, held = data.fullest
    title = f"Who holds the KV pages: {held:,} of {count(data.num_pages, 'page')} at the fullest, in step {step:,}"
    finish(figure, theme, title, subtitle=subtitle(trace), notes=_notes(data))
    return figure, data


def read_page_map(trace: Trace) -> PageMap:
    """Read the map of a recording.

    Raises:
        TraceError: no step ran, or pages were not recorded.
    """
    walk = StateWalk(trace)
    steps: list[int] = []
    times_ns: list[int] = []
    kinds: list[npt.NDArray[np.uint8]] = []
    uids: list[npt.NDArray[np.int64]] = []
    stride, end_ns, fullest = 1, 0, (0, 0)
    for place, moment in enumerate(walk.moments()):
        end_ns = moment.ns
        num_held = int(np.count_nonzero(moment.state.refs))
        if num_held > fullest[1] or not place:
            fullest = moment.step, num_held
        if moment.is_end or place % stride:
            continue
        owners = owners_of(moment.state)
        used = int(np.flatnonzero(owners.kinds).max(initial=-1)) + 1
        steps.append(moment.step)
        times_ns.append(moment.ns)
        kinds.append(owners.kinds[:used].copy())
        uids.append(owners.uids[:used].copy())
        num_pages = moment.state.num_pages
        if len(steps) > MAX_COLUMNS:  # keep every second one, and take half as many from here on
            stride *= 2
            steps, times_ns, kinds, uids = steps[::2], times_ns[::2], kinds[::2], uids[::2]
    notes = list(walk.notes)
    if stride > 1:
        notes.append(f"One step in {stride} is shown.")
    num_used = max(map(len, kinds))
    lines = np.arange(0, num_used, -(-num_used // MAX_LINES) or 1)
    if len(lines) < num_used:
        notes.append(f"One page in {lines[1]} is shown.")
    return PageMap(
        np.array(steps), np.array([*times_ns, max(end_ns, times_ns[-1] + 1)]), lines, _joined(kinds, num_used)[lines],
        _joined(uids, num_used)[lines], num_pages, num_used, walk.page_size, fullest, tuple(notes),
    )  # fmt: skip


def _joined(columns: list[npt.NDArray[Number]], height: int) -> npt.NDArray[Number]:
    """Columns of different lengths side by side, filled up with zeros: pages that were not used yet."""
    joined = np.zeros((height, len(columns)), dtype=columns[0].dtype)
    for place, column in enumerate(columns):
        joined[: len(column), place] = column
    return joined


def _draw(axes: Axes, data: PageMap, axis: Axis, theme: Theme) -> None:
    if axis is Axis.STEP:
        width = int(data.steps[1] - data.steps[0]) if len(data.steps) > 1 else 1
        edges = np.append(data.steps - 0.5, data.steps[-1] + width - 0.5)
        axes.set_xlabel("step of the scheduler")
        whole_numbers(axes, x=True, most=12)
    else:
        edges = (data.times_ns - data.times_ns[0]) / 1e9
        axes.set_xlabel("seconds since the first step was submitted")
    lines = np.append(data.pages, min(data.pages[-1] + _height(data), max(data.num_used, 1)))
    axes.pcolormesh(edges, lines, colours_of(data.kinds, data.uids, theme), rasterized=True)
    _name_requests(axes, data, edges, theme)
    axes.set_ylim(lines[-1], 0)
    whole_numbers(axes, y=True)
    tokens = "1 token" if data.page_size == 1 else f"{data.page_size} tokens"
    axes.set_ylabel(f"number of the page ({tokens} each)")


def _name_requests(axes: Axes, data: PageMap, edges: npt.NDArray[np.float64], theme: Theme) -> None:
    """Write each request's number once, into the longest run of its pages half-way through its life."""
    num_lines = len(data.pages)
    for uid in data.requests:
        columns = np.flatnonzero((data.uids == uid).any(axis=0))
        column = int(columns[len(columns) // 2])
        own = np.flatnonzero(data.uids[:, column] == uid)
        run = max(np.split(own, np.flatnonzero(np.diff(own) > 1) + 1), key=len)
        if len(run) < num_lines * MIN_LABEL_SHARE:
            continue
        axes.text(
            (edges[column] + edges[column + 1]) / 2, data.pages[run].mean() + 0.5 * _height(data), str(uid),
            ha="center", va="center", fontsize=SMALL_SIZE, color=ink_on(theme.request(uid)), clip_on=True,
        )  # fmt: skip


def _height(data: PageMap) -> int:
    """Pages that a line stands for."""
    return int(data.pages[1] - data.pages[0]) if len(data.pages) > 1 else 1


def _notes(data: PageMap) -> list[str]:
    notes = list(data.notes)
    if data.num_used < data.num_pages:
        notes.insert(0, f"Pages from number {data.num_used:,} on were never used, and are not shown.")
    return notes
