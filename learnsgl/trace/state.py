"""The scheduler's state as the trace holds it: six parts, each a few columns of numbers.

The live scheduler (`scheduler/live_state.py`) and the state folded from a trace (`SchedulerState`) are read through
the same two methods, so a keyframe is compared, and a digest recomputed, the same way from both.

| part | an element is | columns |
| --- | --- | --- |
| scalars | the scheduler itself | step, clock (of the cache), num_pages, num_rows |
| queue | a waiting request, by arrival number | order, uid, choice, prompt_len, limit_len |
| rows | a row of the request table in use | row, and every `RowField` by its name |
| tables | the pages of such a row | row, count; pages: all rows' pages one after the other |
| refs | a page, by its number | refs |
| nodes | a node of the radix tree, by its id | node, parent, lock, last_use, digest, count; pages: as above |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from learnsgl.core import Int32Array
from learnsgl.trace.digest import RowField, StateDigest

Int64Array = npt.NDArray[np.int64]
Columns = dict[str, Int64Array]

UNBOUNDED = 1 << 62
"""End of a range that reaches to the last element, whatever its number."""

PARTS = ("scalars", "queue", "rows", "tables", "refs", "nodes")


class NodeFacts(NamedTuple):
    """A tree node as the trace knows it."""

    node: int
    parent: int
    lock: int
    last_use: int
    digest: int
    pages: Int32Array


class StateReader(Protocol):
    """Something whose state can be read part by part."""

    def read(self, part: str, start: int = 0, stop: int = UNBOUNDED) -> Columns:
        """The columns of the elements from `start` up to `stop`, ascending; elements that don't exist are left out."""
        ...


class LiveReader(StateReader, Protocol):
    """A state that changes while it is read, slice by slice."""

    def ranges(self, part: str) -> list[tuple[int, int]]:
        """Ranges of elements that together cover a part, each small enough to be read at once."""
        ...


@dataclass(slots=True)
class Queued:
    """A waiting request."""

    order: int
    uid: int
    choice: int
    prompt_len: int
    limit_len: int


@dataclass(slots=True)
class SchedulerState:
    """The state of the scheduler at one moment of a trace.

    Attributes:
        step: number of the last submitted step.
        clock: logical time of the prefix cache.
        queue: waiting requests by arrival number, in that order.
        rows: int64 [len(RowField), num_rows]; a free row is all zeros.
        page_table: int32 [num_rows, at least the pages of the longest row]; only the first `NUM_PAGES` entries of a
            row count.
        refs: int32 [num_pages] (uint8 in a compact copy); holders of each page.
        nodes: the radix tree by node id, the root (0) left out.
    """

    num_rows: int = 0
    num_pages: int = 0
    step: int = 0
    clock: int = 0
    queue: dict[int, Queued] = field(default_factory=dict)
    rows: Int64Array = field(default_factory=lambda: np.zeros((len(RowField), 0), dtype=np.int64))
    page_table: Int32Array = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))
    refs: npt.NDArray[np.integer[Any]] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    nodes: dict[int, NodeFacts] = field(default_factory=dict)

    def resize(self, num_rows: int, num_pages: int) -> None:
        """Give an empty state its sizes, known once the engine is ready."""
        self.num_rows, self.num_pages = num_rows, num_pages
        self.rows = np.zeros((len(RowField), num_rows), dtype=np.int64)
        self.page_table = np.zeros((num_rows, 0), dtype=np.int32)
        self.refs = np.zeros(num_pages, dtype=np.int32)

    def copy(self) -> SchedulerState:
        """The state as it is now, which later changes of this one leave alone. Facts of nodes are never changed."""
        width = int(self.rows[RowField.NUM_PAGES].max(initial=0))
        return SchedulerState(
            self.num_rows, self.num_pages, self.step, self.clock, dict(self.queue), self.rows.copy(),
            self.page_table[:, :width].copy(), self.refs.astype(np.int32), dict(self.nodes),
        )  # fmt: skip

    def compact(self) -> None:
        """Make a state that is only kept, to be read or copied, smaller; few pages have more than 255 holders."""
        if self.refs.max(initial=0) < 256:
            self.refs = self.refs.astype(np.uint8)

    @property
    def num_bytes(self) -> int:
        """Memory of a copy that shares its nodes' pages with others, roughly."""
        return int(self.rows.nbytes + self.page_table.nbytes + self.refs.nbytes) + 200 * (
            len(self.queue) + len(self.nodes)
        )

    def used_rows(self) -> list[int]:
        """Rows in use, ascending."""
        used: list[int] = np.flatnonzero(self.rows[RowField.PRESENT]).tolist()
        return used

    def pages_of(self, row: int) -> Int32Array:
        """The pages of a row, in the order of their tokens: int32, a view."""
        return self.page_table[row, : self.rows[RowField.NUM_PAGES, row]]

    def reserve(self, num_pages: int) -> None:
        """Make the page table so wide that a row can hold so many pages."""
        height, width = self.page_table.shape
        if num_pages > width:
            grown = np.zeros((height, max(num_pages, width + width // 2)), dtype=np.int32)
            grown[:, :width] = self.page_table
            self.page_table = grown

    def path(self, node: int) -> list[NodeFacts]:
        """From the child of the root down to `node`.

        Raises:
            KeyError: a node of the path isn't there.
        """
        found = []
        while node != 0:
            found.append(self.nodes[node])
            node = self.nodes[node].parent
        return found[::-1]

    def read(self, part: str, start: int = 0, stop: int = UNBOUNDED) -> Columns:
        """As `StateReader`."""
        if part == "scalars":
            return scalar_columns(self.step, self.clock, self.num_pages, self.num_rows)
        if part == "queue":
            waiting = [q for order, q in self.queue.items() if start <= order < stop]
            return queue_columns([(q.order, q.uid, q.choice, q.prompt_len, q.limit_len) for q in waiting])
        if part == "rows":
            return row_columns(self.rows, start, stop)
        if part == "tables":
            return table_columns({row: self.pages_of(row) for row in self.used_rows() if start <= row < stop})
        if part == "refs":
            return {"refs": self.refs[start:stop].astype(np.int64)}
        return node_columns([facts for node, facts in sorted(self.nodes.items()) if start <= node < stop])

    def load(self, part: str, start: int, stop: int, columns: Columns) -> None:
        """Replace the elements from `start` up to `stop` of a part; the opposite of `read`."""
        if part == "scalars":
            self.step, self.clock = int(columns["step"][0]), int(columns["clock"][0])
        elif part == "queue":
            self.queue = {o: q for o, q in self.queue.items() if not start <= o < stop}
            names = ("order", "uid", "choice", "prompt_len", "limit_len")
            for values in zip(*(columns[name].tolist() for name in names), strict=True):
                self.queue[values[0]] = Queued(*values)
            self.queue = dict(sorted(self.queue.items()))
        elif part == "rows":
            self.rows[:, start:stop] = 0
            for column in RowField:
                self.rows[column, columns["row"]] = columns[column.name.lower()]
        elif part == "tables":
            self.reserve(int(columns["count"].max(initial=0)))
            for row, pages in zip(columns["row"].tolist(), _pages_of(columns), strict=True):
                self.page_table[row, : len(pages)] = pages
        elif part == "refs":
            self.refs[start:stop] = columns["refs"]
        else:
            self.nodes = {n: facts for n, facts in self.nodes.items() if not start <= n < stop}
            names = ("node", "parent", "lock", "last_use", "digest")
            values_of = zip(*(columns[name].tolist() for name in names), strict=True)
            for (node, parent, lock, last_use, digest), pages in zip(values_of, _pages_of(columns), strict=True):
                self.nodes[node] = NodeFacts(node, parent, lock, last_use, digest, pages)


def scalar_columns(step: int, clock: int, num_pages: int, num_rows: int) -> Columns:
    """Columns of the part `scalars`."""
    values = {"step": step, "clock": clock, "num_pages": num_pages, "num_rows": num_rows}
    return {name: np.array([value], dtype=np.int64) for name, value in values.items()}


def queue_columns(waiting: Sequence[tuple[int, int, int, int, int]]) -> Columns:
    """Columns of the part `queue`, from (order, uid, choice, prompt_len, limit_len)."""
    values = np.array(waiting, dtype=np.int64).reshape(-1, 5)
    return {name: values[:, i] for i, name in enumerate(("order", "uid", "choice", "prompt_len", "limit_len"))}


def row_columns(rows: Int64Array, start: int, stop: int) -> Columns:
    """Columns of the part `rows`, from the request table's columns."""
    used = start + np.flatnonzero(rows[RowField.PRESENT, start:stop])
    return {"row": used, **{column.name.lower(): rows[column, used] for column in RowField}}


def table_columns(tables: dict[int, Int32Array]) -> Columns:
    """Columns of the part `tables`, from the pages of each row in use."""
    return {"row": np.array(list(tables), dtype=np.int64), **_flattened(list(tables.values()))}


def node_columns(nodes: Sequence[NodeFacts]) -> Columns:
    """Columns of the part `nodes`."""
    values = np.array([facts[:5] for facts in nodes], dtype=np.int64).reshape(-1, 5)
    named = {name: values[:, i] for i, name in enumerate(("node", "parent", "lock", "last_use", "digest"))}
    return {**named, **_flattened([facts.pages for facts in nodes])}


def _flattened(pages: Sequence[Int32Array]) -> Columns:
    counts = np.array([len(p) for p in pages], dtype=np.int64)
    joined = np.concatenate(pages).astype(np.int64) if pages else np.zeros(0, dtype=np.int64)
    return {"count": counts, "pages": joined}


def _pages_of(columns: Columns) -> list[Int32Array]:
    ends = np.cumsum(columns["count"])
    return [
        columns["pages"][end - count : end].astype(np.int32)
        for end, count in zip(ends.tolist(), columns["count"].tolist(), strict=True)
    ]


def digest_of(reader: StateReader) -> int:
    """The digest of a whole state, computed from nothing: what the rolling digest must be equal to."""
    parts = {part: reader.read(part) for part in PARTS}
    digest = StateDigest()
    digest.scalar(0, int(parts["scalars"]["step"][0]))
    digest.scalar(1, int(parts["scalars"]["clock"][0]))
    queue = parts["queue"]
    for values in zip(*(queue[n].tolist() for n in ("order", "uid", "choice", "prompt_len", "limit_len")), strict=True):
        digest.queue(+1, *values)
    for column in RowField:
        digest.rows(column, parts["rows"]["row"], parts["rows"][column.name.lower()])
    for row, pages in zip(parts["tables"]["row"].tolist(), _pages_of(parts["tables"]), strict=True):
        digest.table(+1, np.full(len(pages), row), np.arange(len(pages)), pages)
    digest.all_refs(parts["refs"]["refs"])
    nodes = parts["nodes"]
    names = ("node", "parent", "lock", "last_use", "digest")
    values_of = zip(*(nodes[n].tolist() for n in names), strict=True)
    for (node, parent, lock, last_use, content), pages in zip(values_of, _pages_of(nodes), strict=True):
        digest.node(+1, node, parent, lock, last_use, content, pages)
    return digest.value
