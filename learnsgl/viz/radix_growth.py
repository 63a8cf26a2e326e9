"""How the KV pages and the radix tree grow and shrink: pages by use, nodes, and each insert, split and eviction.

Lessons on eviction draw it, under the same x axis as the map of pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, finish, grid, key, new_figure, panel_title, subtitle, whole_numbers
from learnsgl.viz.states import Moment, StateWalk
from learnsgl.viz.theme import LIGHT, Theme
from learnsgl.viz.words import count

HEIGHT_INCHES = 5.4
_CHANGES = (("inserted", "inserts"), ("split", "splits"), ("evicted", "evictions"))
_ROOM = 1.25
"""Free pages are drawn up to this much above the most that were held; without that, a large pool hides everything."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RadixGrowth:
    """What the figure shows, at each step; all arrays are int64 [num_steps].

    Attributes:
        steps, times_ns: numbers of the steps, and when they were submitted.
        locked: pages of the tree that requests hold, directly or through a node below.
        evictable: pages of the tree that nobody holds.
        private: pages that only requests hold: not, or not yet, in the tree.
        free: pages that nobody holds.
        nodes: nodes of the tree.
        inserted, split, evicted: nodes since the step before.
        num_pages: pages in all.
        notes: what isn't shown.
    """

    steps: Counts
    times_ns: Counts
    locked: Counts
    evictable: Counts
    private: Counts
    free: Counts
    nodes: Counts
    inserted: Counts
    split: Counts
    evicted: Counts
    num_pages: int
    notes: tuple[str, ...]


def radix_growth(trace: Recording, *, theme: Theme = LIGHT) -> tuple[Figure, RadixGrowth]:
    """Draw the growth of the tree, and what the KV pages are used for.

    Args:
        trace: the recording, of level full.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the numbers that it shows.

    Raises:
        TraceError: no step ran, or pages were not recorded.
    """
    trace = trace_of(trace)
    data = read_radix_growth(trace)
    figure = new_figure(theme, HEIGHT_INCHES)
    pages, nodes, changes = figure.subplots(3, 1, sharex=True, height_ratios=(4, 2, 1.5))
    _draw_pages(pages, data, theme)
    _draw_nodes(nodes, data, theme)
    _draw_changes(changes, data, theme)
    num_evicted = int(data.evicted.sum())
    after = f"{count(num_evicted, 'node')} had to make room" if num_evicted else "nothing had to be evicted"
    title = f"How the prefix cache grows: up to {count(int(data.nodes.max()), 'node')}, and {after}"
    finish(figure, theme, title, subtitle=subtitle(trace), notes=data.notes)
    return figure, data


def read_radix_growth(trace: Trace) -> RadixGrowth:
    """Read the growth of a recording's tree.

    Raises:
        TraceError: no step ran, or pages were not recorded.
    """
    walk = StateWalk(trace)
    rows: list[tuple[int, ...]] = []
    num_pages = 0
    for moment in walk.moments():
        if not moment.is_end:
            rows.append(_counts_of(moment))
            num_pages = moment.state.num_pages
    steps, times_ns, locked, evictable, private, free, nodes, inserted, split, evicted = np.array(
        rows, dtype=np.int64
    ).T
    return RadixGrowth(
        steps, times_ns, locked, evictable, private, free, nodes, inserted, split, evicted, num_pages, tuple(walk.notes)
    )


def _counts_of(moment: Moment) -> tuple[int, ...]:
    """A moment's row of `RadixGrowth`, in the order of its fields."""
    state = moment.state
    locked = sum(len(node.pages) for node in state.nodes.values() if node.lock)
    in_tree = sum(len(node.pages) for node in state.nodes.values())
    held = int(np.count_nonzero(state.refs))
    changes = tuple(moment.changes[name] for name, _ in _CHANGES)
    pages = locked, in_tree - locked, held - in_tree, state.num_pages - held
    return moment.step, moment.ns, *pages, len(state.nodes), *changes


def _draw_pages(axes: Axes, data: RadixGrowth, theme: Theme) -> None:
    theme.style_axes(axes)
    parts = (
        (data.locked, theme.series(0), "in the cache, held by requests"),
        (data.private, theme.series(1), "only requests"),
        (data.evictable, theme.cached, "only the cache: evictable"),
        (data.free, theme.free, "free"),
    )
    axes.stackplot(
        data.steps, *(part for part, _, _ in parts), colors=[colour for _, colour, _ in parts], step="mid", lw=0
    )
    most = int((data.num_pages - data.free).max())
    axes.set_ylim(0, min(data.num_pages, max(most * _ROOM, 1)))
    axes.set_ylabel("KV pages")
    whole_numbers(axes, y=True, most=6)
    key(axes, theme, [(colour, name) for _, colour, name in parts])
    panel_title(axes, theme, "Pages")
    if data.num_pages > most * _ROOM:
        axes.annotate(
            f"{data.num_pages:,} pages in all; at least {data.num_pages - most:,} are free", (1, 1), (-4, -4),
            xycoords="axes fraction", textcoords="offset points", ha="right", va="top", fontsize=SMALL_SIZE,
            color=theme.ink,
        )  # fmt: skip


def _draw_nodes(axes: Axes, data: RadixGrowth, theme: Theme) -> None:
    theme.style_axes(axes)
    grid(axes, theme)
    axes.step(data.steps, data.nodes, where="mid", color=theme.ink, lw=1.4)
    axes.set_ylim(0, 1.15 * max(int(data.nodes.max()), 1))
    axes.set_ylabel("nodes")
    whole_numbers(axes, y=True, most=4)
    panel_title(axes, theme, "Nodes of the tree")


def _draw_changes(axes: Axes, data: RadixGrowth, theme: Theme) -> None:
    """A line for each kind of change: a mark where it happened, and how many in all."""
    theme.style_axes(axes)
    counts: Sequence[Counts] = (data.inserted, data.split, data.evicted)
    colours = (theme.hidden, theme.muted, theme.exposed)
    for place, ((_, _name), numbers, colour) in enumerate(zip(_CHANGES, counts, colours, strict=True)):
        at = data.steps[numbers > 0]
        axes.vlines(at, place - 0.34, place + 0.34, color=colour, lw=2.0 if len(data.steps) < 200 else 0.8)
    axes.set_yticks(
        range(3), [f"{int(n.sum()):,} {name}" for (_, name), n in zip(_CHANGES, counts, strict=True)]
    )  # fmt: skip
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(2.5, -0.5)
    axes.set_xlim(data.steps[0] - 0.5, data.steps[-1] + 0.5)
    axes.set_xlabel("step of the scheduler")
    whole_numbers(axes, x=True, most=12)
    panel_title(axes, theme, "Changes of the tree")
