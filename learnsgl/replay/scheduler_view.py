"""One scheduler at a moment: queue, running requests, pages and the radix tree, read from a folded state.

`ServerState` holds one for each scheduler. Nothing is spelled out before it is asked for: of 200,000 pages most
questions need a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from learnsgl.core import ReqKey, Stage
from learnsgl.errors import OptionError
from learnsgl.trace.digest import RowField
from learnsgl.trace.state import SchedulerState

ROOT = 0
"""The root of the radix tree."""


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request in the queue.

    Attributes:
        key: its id and choice.
        order: its arrival number; the queue is in this order.
        prompt_len: tokens of its prompt.
        limit_len: prompt and output together never exceed this many tokens.
    """

    key: ReqKey
    order: int
    prompt_len: int
    limit_len: int


@dataclass(frozen=True, slots=True)
class RunningRequest:
    """A request that holds a row of the request table.

    Attributes:
        key: its id and choice.
        row: the row.
        stage: prefill, decode or finished.
        prompt_len: tokens of its prompt.
        cached_len: of these, tokens whose KV came from the cache.
        scheduled_len: tokens whose KV is computed by steps that were submitted.
        committed_len: tokens whose KV is computed by steps that were collected.
        num_output: tokens generated.
        limit_len: prompt and output together never exceed this many tokens.
        num_in_flight: steps with this request that are submitted and not committed.
        node: tree node that it holds locked, `ROOT` for none; `None` at level `steps`.
        pages: its pages, in the order of their tokens; `None` at level `steps`.
    """

    key: ReqKey
    row: int
    stage: Stage
    prompt_len: int
    cached_len: int
    scheduled_len: int
    committed_len: int
    num_output: int
    limit_len: int
    num_in_flight: int
    node: int | None
    pages: tuple[int, ...] | None

    @property
    def num_prompt_done(self) -> int:
        """Tokens of the prompt whose KV is there: from the cache, or computed and collected."""
        return min(self.committed_len, self.prompt_len)

    @property
    def progress(self) -> float:
        """How much of prompt and longest possible output is done, 0 to 1."""
        return min(1.0, (self.num_prompt_done + self.num_output) / max(1, self.limit_len))


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A node of the radix tree.

    Attributes:
        node: its id.
        parent: the node above; `None` for the root.
        children: the nodes below, ascending.
        lock: requests that hold it or a node below it; above 0 it isn't evicted.
        last_use: logical time of the last match that walked through it.
        pages: its pages, in the order of their tokens.
    """

    node: int
    parent: int | None
    children: tuple[int, ...]
    lock: int
    last_use: int
    pages: tuple[int, ...]


class PageUse(IntEnum):
    """Who holds a page."""

    FREE = 0
    REQUEST = 1
    """One running request, and nobody else."""
    TREE = 2
    """The radix tree, and nobody else."""
    SHARED = 3
    """The tree and requests, or several requests."""


@dataclass(frozen=True, slots=True)
class PageHolders:
    """Who holds a page.

    Attributes:
        page: its number.
        use: free, a request's, the tree's or shared.
        num_refs: how many hold it.
        rows: rows of the request table with it.
        requests: the requests in these rows.
        nodes: tree nodes with it.
    """

    page: int
    use: PageUse
    num_refs: int
    rows: tuple[int, ...]
    requests: tuple[ReqKey, ...]
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SchedulerView:
    """One scheduler at a moment.

    Attributes:
        name: its process.
        is_known: whether its state is known: the recording reaches back to its beginning, or to a whole keyframe.
        has_pages: whether pages and the tree were recorded (not at level `steps`).
        page_size: tokens a page; `None` before the engine is ready, or where that part of the recording is gone.
        folded: the state itself; not to be changed.
    """

    name: str
    is_known: bool
    has_pages: bool
    page_size: int | None
    folded: SchedulerState

    @property
    def step(self) -> int:
        """Number of the last step that was submitted; 0 before the first."""
        return self.folded.step

    @property
    def num_pages(self) -> int:
        """Pages of KV cache; 0 before the engine is ready."""
        return self.folded.num_pages

    @property
    def num_rows(self) -> int:
        """Rows of the request table."""
        return self.folded.num_rows

    @cached_property
    def queue(self) -> tuple[WaitingRequest, ...]:
        """Waiting requests, the first in turn first."""
        waiting = self.folded.queue.values()
        return tuple(WaitingRequest(ReqKey(q.uid, q.choice), q.order, q.prompt_len, q.limit_len) for q in waiting)

    @cached_property
    def running(self) -> tuple[RunningRequest, ...]:
        """Requests that hold a row, in the order of their rows."""
        return tuple(self._request(row) for row in self.folded.used_rows())

    def _request(self, row: int) -> RunningRequest:
        values = self.folded.rows[:, row].tolist()
        return RunningRequest(
            ReqKey(values[RowField.UID], values[RowField.CHOICE]), row, Stage(values[RowField.STAGE]),
            values[RowField.PROMPT_LEN], values[RowField.CACHED_LEN], values[RowField.SCHEDULED_LEN],
            values[RowField.COMMITTED_LEN], values[RowField.NUM_OUTPUT], values[RowField.LIMIT_LEN],
            values[RowField.NUM_IN_FLIGHT], values[RowField.NODE] if self.has_pages else None,
            tuple(self.folded.pages_of(row).tolist()) if self.has_pages else None,
        )  # fmt: skip

    @property
    def rows(self) -> tuple[ReqKey | None, ...]:
        """Who holds each row; `None` for a free one."""
        holders = {request.row: request.key for request in self.running}
        return tuple(holders.get(row) for row in range(self.num_rows))

    def request(self, uid: int, choice: int = 0) -> RunningRequest | WaitingRequest | None:
        """A request that runs or waits."""
        key = ReqKey(uid, choice)
        found: tuple[RunningRequest | WaitingRequest, ...] = (*self.running, *self.queue)
        return next((request for request in found if request.key == key), None)

    @cached_property
    def tree(self) -> Mapping[int, TreeNode] | None:
        """The radix tree by node, the root included; `None` at level `steps`."""
        if not self.has_pages:
            return None
        children: dict[int, list[int]] = {ROOT: []}
        for node, facts in sorted(self.folded.nodes.items()):
            children.setdefault(facts.parent, []).append(node)
        nodes = {ROOT: TreeNode(ROOT, None, tuple(children[ROOT]), 0, 0, ())}
        for node, facts in sorted(self.folded.nodes.items()):
            below = tuple(children.get(node, ()))
            nodes[node] = TreeNode(node, facts.parent, below, facts.lock, facts.last_use, tuple(facts.pages.tolist()))
        return MappingProxyType(nodes)

    @cached_property
    def page_uses(self) -> npt.NDArray[np.uint8] | None:
        """A `PageUse` for each page, uint8 [num_pages]; `None` at level `steps`."""
        if not self.has_pages:
            return None
        in_tree = np.zeros(self.num_pages, dtype=np.bool_)
        for facts in self.folded.nodes.values():
            in_tree[facts.pages] = True
        refs = self.folded.refs
        uses = np.where(in_tree, PageUse.TREE.value, PageUse.REQUEST.value)
        uses[refs > 1] = PageUse.SHARED
        uses[refs == 0] = PageUse.FREE
        return uses.astype(np.uint8)

    @cached_property
    def free_pages(self) -> tuple[int, ...] | None:
        """Pages that nobody holds, ascending; `None` at level `steps`."""
        return tuple(np.flatnonzero(self.folded.refs == 0).tolist()) if self.has_pages else None

    @property
    def num_free_pages(self) -> int | None:
        """How many these are."""
        return int(np.count_nonzero(self.folded.refs == 0)) if self.has_pages else None

    def page(self, number: int) -> PageHolders | None:
        """Who holds a page; `None` at level `steps`.

        Raises:
            OptionError: there is no page with this number.
        """
        uses = self.page_uses
        if uses is None:
            return None
        if not 0 <= number < self.num_pages:
            raise OptionError(f"page {number} was asked for; {self.name} has pages 0 to {self.num_pages - 1}")
        rows = tuple(row for row in self.folded.used_rows() if number in self.folded.pages_of(row))
        nodes = tuple(node for node, facts in sorted(self.folded.nodes.items()) if number in facts.pages)
        uids, choices = self.folded.rows[RowField.UID], self.folded.rows[RowField.CHOICE]
        requests = tuple(ReqKey(int(uids[row]), int(choices[row])) for row in rows)
        return PageHolders(number, PageUse(uses[number]), int(self.folded.refs[number]), rows, requests, nodes)
