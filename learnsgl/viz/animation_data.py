"""What the animation of pages and tree shows at each step, as differences from the step before.

`animation.py` puts it into a page. Differences keep a recording of a hundred steps at tens of kilobytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learnsgl.errors import TraceError
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.reader import Trace
from learnsgl.viz.owners import Owner, owners_of
from learnsgl.viz.states import Moment, StateWalk
from learnsgl.viz.tree_data import TreeNode, nodes_in_order

MAX_FRAMES = 200
MAX_CELLS = 1600
FIRST_UID = 10
"""In a cell's code, smaller numbers are `Owner`s; a request's code is its id plus this."""

Codes = npt.NDArray[np.int64]


class CellRun(NamedTuple):
    """Neighbouring cells that change to the same code."""

    start: int
    length: int
    code: int


class NodeChange(NamedTuple):
    """A node that is new, or no longer what it was."""

    node: int
    parent: int
    num_pages: int
    lock: int
    last_use: int
    uids: tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """One step.

    Attributes:
        step: its number.
        ms: when it was submitted, in milliseconds since the first one.
        prefill: (request, tokens) of each chunk in it.
        decode: requests that decode in it.
        waiting: requests in the queue.
        num_evicted: nodes that were evicted since the frame before.
        cells: cells that changed since the frame before.
        nodes: nodes that are new or changed since the frame before.
        removed: nodes that are gone since the frame before.
    """

    step: int
    ms: float
    prefill: tuple[tuple[int, int], ...]
    decode: tuple[int, ...]
    waiting: tuple[int, ...]
    num_evicted: int
    cells: tuple[CellRun, ...]
    nodes: tuple[NodeChange, ...]
    removed: tuple[int, ...]


@dataclass(frozen=True)
class AnimationData:
    """All frames.

    Attributes:
        frames: in the order of their steps.
        num_cells: cells of the page map.
        pages_per_cell: pages that a cell stands for, of which it shows the first.
        num_pages: pages in all.
        page_size: tokens a page.
        notes: what isn't shown.
    """

    frames: tuple[Frame, ...]
    num_cells: int
    pages_per_cell: int
    num_pages: int
    page_size: int
    notes: tuple[str, ...]


class _Snapshot(NamedTuple):
    """A step as it is kept until all steps are known."""

    step: int
    ns: int
    submitted: events.SchedStep
    waiting: tuple[int, ...]
    num_evicted: int
    codes: Codes
    nodes: tuple[TreeNode, ...]


def read_animation(trace: Trace, *, steps: tuple[int, int] | None = None) -> AnimationData:
    """Read the frames of a recording.

    Args:
        trace: the recording, of level full.
        steps: first and last step to show; by default all.

    Raises:
        TraceError: no step ran, none of those asked for, or pages were not recorded.
    """
    walk = StateWalk(trace)
    kept: list[_Snapshot] = []
    stride, num_seen, num_evicted, num_pages = 1, 0, 0, 0
    for moment in walk.moments():
        if moment.submitted is None or (steps is not None and not steps[0] <= moment.step <= steps[1]):
            continue
        num_evicted += moment.changes["evicted"]
        num_pages = moment.state.num_pages
        if num_seen % stride == 0:
            kept.append(_snapshot(moment, moment.submitted, num_evicted))
            num_evicted = 0
        num_seen += 1
        if len(kept) > MAX_FRAMES:
            stride, kept = 2 * stride, _every_second(kept)
    if not kept:
        raise TraceError(f"{trace.path}: none of the steps {steps} has a known state in this recording")
    num_used = max(max(len(one.codes) for one in kept), 1)
    per_cell = -(-num_used // MAX_CELLS)
    notes = list(walk.notes)
    notes += [f"One step in {stride} is shown."] if stride > 1 else []
    notes += [f"One page in {per_cell} is shown."] if per_cell > 1 else []
    if num_used < num_pages:
        notes.append(f"Of {num_pages:,} pages, those from number {num_used:,} on were never used, and are not shown.")
    return AnimationData(
        tuple(_frames(kept, num_used, per_cell)), -(-num_used // per_cell), per_cell, num_pages, walk.page_size,
        tuple(notes),
    )  # fmt: skip


def _snapshot(moment: Moment, submitted: events.SchedStep, num_evicted: int) -> _Snapshot:
    owners = owners_of(moment.state)
    used = int(np.flatnonzero(owners.kinds).max(initial=-1)) + 1
    kinds = owners.kinds[:used].astype(np.int64)
    codes = np.where(kinds == Owner.REQUEST, owners.uids[:used] + FIRST_UID, kinds)
    waiting = tuple(queued.uid for queued in moment.state.queue.values())
    return _Snapshot(
        moment.step, moment.ns, submitted, waiting, num_evicted, codes, nodes_in_order(moment.state)
    )  # fmt: skip


def _every_second(kept: list[_Snapshot]) -> list[_Snapshot]:
    """The snapshots at even places, each with the evictions of the one before it."""
    evicted = [one.num_evicted for one in kept]
    return [
        one._replace(num_evicted=one.num_evicted + (evicted[place * 2 - 1] if place else 0))
        for place, one in enumerate(kept[::2])
    ]


def _frames(kept: list[_Snapshot], num_used: int, per_cell: int) -> list[Frame]:
    frames = []
    codes = np.zeros(num_used, dtype=np.int64)[::per_cell]
    nodes: dict[int, NodeChange] = {}
    for one in kept:
        now = np.zeros(num_used, dtype=np.int64)
        now[: len(one.codes)] = one.codes
        now = now[::per_cell]
        tree = {
            node.node: NodeChange(node.node, node.parent, node.num_pages, node.lock, node.last_use, node.uids)
            for node in one.nodes
        }
        changed = tuple(node for key, node in tree.items() if nodes.get(key) != node)
        prefill, decode = _runs(one.submitted)
        frames.append(
            Frame(
                one.step, round((one.ns - kept[0].ns) / 1e6, 2), prefill, decode, one.waiting, one.num_evicted,
                _cell_runs(codes, now), changed, tuple(key for key in nodes if key not in tree),
            )
        )  # fmt: skip
        codes, nodes = now, tree
    return frames


def _runs(submitted: events.SchedStep) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    uids, lens = ints(submitted.uids, "i8").tolist(), ints(submitted.lens, "i4").tolist()
    cut = submitted.num_prefill
    return tuple(zip(uids[:cut], lens[:cut], strict=True)), tuple(uids[cut:])


def _cell_runs(before: Codes, now: Codes) -> tuple[CellRun, ...]:
    """Neighbouring cells that change to the same code, in one run."""
    places = np.flatnonzero(before != now)
    if not len(places):
        return ()
    cuts = np.flatnonzero((np.diff(places) != 1) | (np.diff(now[places]) != 0)) + 1
    return tuple(CellRun(int(run[0]), len(run), int(now[run[0]])) for run in np.split(places, cuts))
