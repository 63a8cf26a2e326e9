"""The live scheduler read as a `StateReader`: what a keyframe holds, taken from the objects themselves.

Nothing here remembers anything; the keyframe writer and the tests ask it for parts of the state as they are now.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from learnsgl.trace.state import (
    UNBOUNDED,
    Columns,
    node_columns,
    queue_columns,
    row_columns,
    scalar_columns,
    table_columns,
)

if TYPE_CHECKING:
    from learnsgl.scheduler.scheduler import Scheduler


SLICE_NODES = 1024
SLICE_ROWS = 256
SLICE_PAGES = 1 << 18


class LiveState:
    """The state of a running scheduler, part by part (see `trace/state.py`)."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._running = scheduler.running
        self._table = scheduler.running.table
        self._cache = scheduler.running.cache
        self._allocator = scheduler.running.allocator

    def ranges(self, part: str) -> list[tuple[int, int]]:
        """As `LiveReader`. The last range has no end where elements may have been added by the time it is read."""
        if part in ("scalars", "queue"):
            return [(0, UNBOUNDED)]
        if part == "nodes":
            firsts = self._cache.node_ids()[::SLICE_NODES]
            return list(itertools.pairwise([0, *firsts[1:], UNBOUNDED]))
        size = SLICE_PAGES if part == "refs" else SLICE_ROWS
        extent = self._allocator.num_pages if part == "refs" else self._table.num_rows
        return [(start, min(start + size, extent)) for start in range(0, extent, size)]

    def read(self, part: str, start: int = 0, stop: int = UNBOUNDED) -> Columns:
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
