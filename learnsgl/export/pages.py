"""How many KV pages the cache holds, locked and evictable, counted from its events as they stream by.

`trace/fold.py` rebuilds the whole state and proves it; for two numbers a step that costs too much. Here each event
changes two sums by the nodes that it names. The tests compare them with the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from learnsgl.errors import TraceViolation
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.digest import RowField
from learnsgl.trace.events import Event
from learnsgl.trace.fold import Fold

ROOT = 0


class _Node:
    __slots__ = ("lock", "num_pages", "parent")

    def __init__(self, parent: int, lock: int, num_pages: int) -> None:
        self.parent = parent
        self.lock = lock
        self.num_pages = num_pages


class CachePages:
    """Counts the pages of the radix tree of one scheduler process.

    Where a trace begins in the middle, or events are missing, the counts are unknown until the next whole keyframe,
    which the fold finds. The same is true from an event on that contradicts those before it.

    Attributes:
        num_locked: pages of nodes that running requests hold.
        num_evictable: pages that only the cache holds.

    Args:
        from_start: whether the first event is the process's first one, so that the tree is empty.
    """

    def __init__(self, *, from_start: bool = True) -> None:
        self.num_locked = 0
        self.num_evictable = 0
        self._nodes: dict[int, _Node] = {}
        self._held: dict[int, int] = {}
        """From a row of the request table to the node that it holds."""
        self._entrance: Fold | None = None if from_start else Fold(from_start=False)
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            events.SchedAdmitted: self._on_admitted,
            events.CacheLocked: self._on_locked,
            events.CacheMoved: self._on_moved,
            events.CacheSplit: self._on_split,
            events.CacheInserted: self._on_inserted,
            events.CacheEvicted: self._on_evicted,
        }

    @property
    def is_known(self) -> bool:
        """Whether the counts are those of the scheduler."""
        return self._entrance is None

    def apply(self, event: Event) -> None:
        """Take over one event of the process; all of them must be given, in order."""
        kind = type(event)
        if kind is events.TraceDropped or (isinstance(event, events.TraceBegin) and event.late):
            self._forget()
        elif self._entrance is not None:
            self._enter(self._entrance, event)
        elif kind in self._handlers:
            try:
                self._handlers[kind](event)
            except (KeyError, ValueError):  # it contradicts what came before; `trace verify` says how
                self._forget()

    # ------------------------------------------------------------ where the tree is unknown

    def _forget(self) -> None:
        self._entrance = Fold(from_start=False)

    def _enter(self, fold: Fold, event: Event) -> None:
        try:
            fold.apply(event)
        except TraceViolation:
            self._forget()
            return
        if not fold.is_known:
            return
        facts = fold.state.nodes.values()
        self._nodes = {node.node: _Node(node.parent, node.lock, len(node.pages)) for node in facts}
        present = fold.state.rows[RowField.PRESENT].nonzero()[0].tolist()
        self._held = {row: int(fold.state.rows[RowField.NODE, row]) for row in present}
        self.num_locked = sum(node.num_pages for node in self._nodes.values() if node.lock)
        self.num_evictable = sum(node.num_pages for node in self._nodes.values() if not node.lock)
        self._entrance = None

    # ------------------------------------------------------------ the tree

    def _path(self, node: int) -> Iterator[tuple[int, _Node]]:
        """A node and those above it, up to the root's children."""
        while node != ROOT:
            facts = self._nodes[node]
            yield node, facts
            node = facts.parent

    def _lock(self, node: _Node, delta: int) -> None:
        was_locked = node.lock > 0
        node.lock += delta
        if node.lock < 0:
            raise ValueError("unlocked more often than it was locked")
        moved = node.num_pages * ((node.lock > 0) - was_locked)
        self.num_locked += moved
        self.num_evictable -= moved

    def _on_admitted(self, event: events.SchedAdmitted) -> None:
        self._held.update(zip(ints(event.rows, "i4").tolist(), ints(event.nodes, "i8").tolist(), strict=True))

    def _on_locked(self, event: events.CacheLocked) -> None:
        for _, node in self._path(event.node):
            self._lock(node, event.delta)

    def _on_moved(self, event: events.CacheMoved) -> None:
        held = self._held[event.row]
        self._held[event.row] = event.node
        for number, node in self._path(event.node):
            if number == held:
                return
            self._lock(node, +1)

    def _on_split(self, event: events.CacheSplit) -> None:
        lower = self._nodes[event.node]
        self._nodes[event.new_node] = _Node(lower.parent, lower.lock, event.num_pages)
        lower.parent = event.new_node
        lower.num_pages -= event.num_pages

    def _on_inserted(self, event: events.CacheInserted) -> None:
        num_pages = len(event.pages) // 4
        self._nodes[event.node] = _Node(event.parent, 0, num_pages)
        self.num_evictable += num_pages

    def _on_evicted(self, event: events.CacheEvicted) -> None:
        for node in ints(event.nodes, "i8").tolist():
            self.num_evictable -= self._nodes.pop(node).num_pages
