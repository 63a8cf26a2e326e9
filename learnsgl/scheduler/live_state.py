"""The live scheduler read as a `StateReader`: what a keyframe holds, taken from the objects themselves.

Nothing here remembers anything; the keyframe writer and the tests ask it for parts of the state as they are now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from learnsgl.trace.state import Columns, node_columns, queue_columns, row_columns, scalar_columns, table_columns

if TYPE_CHECKING:
    from learnsgl.scheduler.scheduler import Scheduler


class LiveState:
    """The state of a running scheduler, part by part (see `trace/state.py`)."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._running = scheduler.running
        self._table = scheduler.running.table
        self._cache = scheduler.running.cache
        self._allocator = scheduler.running.allocator

    def extent(self, part: str) -> int:
        """As `StateReader`."""
        if part == "scalars":
            return 1
        if part == "queue":
            return max((req.order for req in self._scheduler.prefill.queue.values()), default=-1) + 1
        if part in ("rows", "tables"):
            return self._table.num_rows
        if part == "refs":
            return self._allocator.num_pages
        return max(self._cache.node_ids(), default=0) + 1

    def read(self, part: str, start: int, stop: int) -> Columns:
        """As `StateReader`."""
        if part == "scalars":
            step, clock = self._scheduler.step_number, self._cache.clock
            return scalar_columns(step, clock, self._allocator.num_pages, self._table.num_rows)
        if part == "queue":
            waiting = [req for req in self._scheduler.prefill.queue.values() if start <= req.order < stop]
            return queue_columns([(req.order, *req.key, req.prompt_len, req.limit_len) for req in waiting])
        if part == "rows":
            return row_columns(self._table.columns, start, stop)
        if part == "tables":
            rows = [row for row in self._table.used_rows().tolist() if start <= row < stop]
            return table_columns({row: self._table.pages_of(row) for row in rows})
        if part == "refs":
            return {"refs": self._allocator.refs[start:stop].astype("int64")}
        found = [self._cache.facts(node) for node in self._cache.node_ids() if start <= node < stop]
        return node_columns([facts for facts in found if facts is not None])
