"""The radix tree at one moment: a line a node, its tokens on the axis, and who holds it.

Lessons on the prefix cache draw it. A bar begins where its parent's ends, so that a path from the left to the right is
a prefix; its stripes are the requests that hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learnsgl.errors import TraceError
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, TEXT_SIZE, finish, key, new_figure, subtitle, whole_numbers
from learnsgl.viz.states import StateWalk
from learnsgl.viz.theme import LIGHT, Theme
from learnsgl.viz.tree_data import TreeNode, nodes_in_order
from learnsgl.viz.words import count, listed

MAX_NODES = 40
_LINE_INCHES = 0.215
_BASE_INCHES = 1.7
_BAR_HEIGHT = 0.66
_COLUMNS = (("node", 0.12), ("tokens", 0.29), ("last use", 0.47), ("held by requests", 0.53))
"""Columns of the table at the right: head, and where its right edge (the last: its left edge) lies in the panel."""


@dataclass(frozen=True)
class RadixTree:
    """The tree that the figure shows.

    Attributes:
        step: the step that had been submitted at that moment.
        ns: when.
        clock: logical time of the cache.
        page_size: tokens a page.
        nodes: all of them, each followed by what hangs below it.
        notes: what isn't shown.
    """

    step: int
    ns: int
    clock: int
    page_size: int
    nodes: tuple[TreeNode, ...]
    notes: tuple[str, ...]

    @property
    def shown(self) -> tuple[TreeNode, ...]:
        """The nodes that the figure has room for: the ones with the most pages, and all above them."""
        if len(self.nodes) <= MAX_NODES:
            return self.nodes
        by_id = {one.node: one for one in self.nodes}
        kept: set[int] = set()
        for one in sorted(self.nodes, key=lambda one: (not one.lock, -one.num_pages, one.node)):
            path = []
            above: TreeNode | None = one
            while above is not None and above.node not in kept:
                path.append(above.node)
                above = by_id.get(above.parent)
            if len(kept) + len(path) <= MAX_NODES:
                kept.update(path)
        return tuple(one for one in self.nodes if one.node in kept)


def radix_tree(trace: Recording, *, step: int | None = None, theme: Theme = LIGHT) -> tuple[Figure, RadixTree]:
    """Draw the tree of the prefix cache at one moment.

    Args:
        trace: the recording, of level full.
        step: the moment when this step had been submitted; by default the one at which most is shared.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the tree that it shows.

    Raises:
        TraceError: the tree was never known, or has no such step, or never had a node.
    """
    trace = trace_of(trace)
    data = read_radix_tree(trace, step=step)
    shown = data.shown
    figure = new_figure(theme, _BASE_INCHES + _LINE_INCHES * max(len(shown), 4))
    tree, facts = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    _draw_tree(tree, data, shown, theme)
    _draw_table(facts, data, shown, theme)
    num_locked = sum(one.lock > 0 for one in data.nodes)
    num_shared = sum(len(set(one.uids)) > 1 for one in data.nodes)
    title = (
        f"The prefix cache after step {data.step:,}: {count(len(data.nodes), 'node')}; requests hold {num_locked:,}, "
        f"of which {num_shared:,} several at once"
    )
    finish(figure, theme, title, subtitle=subtitle(trace), notes=_notes(data, len(shown)))
    return figure, data


def read_radix_tree(trace: Trace, *, step: int | None = None) -> RadixTree:
    """Read the tree of one moment.

    Raises:
        TraceError: the tree was never known, or has no such step, or never had a node.
    """
    walk = StateWalk(trace)
    best: tuple[int, int, RadixTree] | None = None
    steps: list[int] = []
    for moment in walk.moments():
        if moment.is_end:
            continue
        steps.append(moment.step)
        state = moment.state
        if step is None:
            score = sum(max(node.lock - 1, 0) for node in state.nodes.values()), len(state.nodes)
            if best is not None and score <= best[:2]:
                continue
        elif step != moment.step:
            continue
        else:
            score = 0, 0
        nodes = nodes_in_order(state)
        best = (*score, RadixTree(moment.step, moment.ns, state.clock, 1, nodes, ()))
    if best is None:
        raise TraceError(
            f"{trace.path}: the tree after step {step} is not known; give a step from {steps[0]:,} to {steps[-1]:,}"
        )
    tree = best[2]
    if not tree.nodes:
        raise TraceError(
            f"{trace.path}: the prefix cache is empty after step {tree.step:,}; with --cache-type naive it always is"
        )
    return RadixTree(tree.step, tree.ns, tree.clock, walk.page_size, tree.nodes, tuple(walk.notes))


def _draw_tree(axes: Axes, data: RadixTree, shown: tuple[TreeNode, ...], theme: Theme) -> None:
    theme.style_axes(axes)
    lines = {one.node: place for place, one in enumerate(shown)}
    for place, one in enumerate(shown):
        start, width = one.start * data.page_size, one.num_pages * data.page_size
        colours = [theme.request(uid) for uid in one.uids] or [theme.cached]
        height = _BAR_HEIGHT / len(colours)
        for stripe, colour in enumerate(colours):
            axes.barh(
                place - _BAR_HEIGHT / 2 + stripe * height, width, left=start, height=height, align="edge", color=colour,
                linewidth=0, zorder=3,
            )  # fmt: skip
        if one.parent in lines:  # down from the parent's end
            axes.plot(
                [start, start], [lines[one.parent], place + _BAR_HEIGHT / 2], color=theme.muted, lw=1.0, zorder=2,
                solid_capstyle="butt",
            )  # fmt: skip
    _shade(axes, len(shown), theme)
    axes.set_yticks([])
    axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    end = max((one.start + one.num_pages) * data.page_size for one in data.nodes)
    axes.set_xlim(0, end * 1.01)
    whole_numbers(axes, x=True)
    axes.set_xlabel("tokens from the beginning of the prompt")
    key(axes, theme, [(theme.request(1), "held by a request"), (theme.cached, "held by nobody: evictable")])


def _draw_table(axes: Axes, data: RadixTree, shown: tuple[TreeNode, ...], theme: Theme) -> None:
    """Beside each node its numbers."""
    theme.style_axes(axes)
    _shade(axes, len(shown), theme)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    for head, x in _COLUMNS:
        align = "left" if head == _COLUMNS[-1][0] else "right"
        axes.annotate(
            head, (x, 1), (0, 6), xycoords=("data", "axes fraction"), textcoords="offset points", ha=align,
            fontsize=SMALL_SIZE, color=theme.muted, annotation_clip=False,
        )  # fmt: skip
    for place, one in enumerate(shown):
        held = listed([str(uid) for uid in one.uids], 6) if one.uids else "nobody"
        cells = (str(one.node), f"{one.num_pages * data.page_size:,}", f"{one.last_use:,}", held)
        for (head, x), cell in zip(_COLUMNS, cells, strict=True):
            align = "left" if head == _COLUMNS[-1][0] else "right"
            colour = theme.ink if one.uids else theme.muted
            axes.text(x, place, cell, ha=align, va="center", fontsize=TEXT_SIZE, color=colour)


def _shade(axes: Axes, num_lines: int, theme: Theme) -> None:
    for place in range(0, num_lines, 2):
        axes.axhspan(place - 0.5, place + 0.5, color=theme.band, lw=0, zorder=0)


def _notes(data: RadixTree, num_shown: int) -> list[str]:
    notes = [
        f"A page holds {count(data.page_size, 'token')}. Last use is the cache's own clock, which stands at "
        f"{data.clock:,}: of the nodes that nobody holds, the leaf that was used longest ago goes first."
    ]
    if num_shown < len(data.nodes):
        notes.append(
            f"{len(data.nodes) - num_shown:,} of {len(data.nodes):,} nodes have no line: those that requests hold and "
            "the largest come first."
        )
    return [*notes, *data.notes]
