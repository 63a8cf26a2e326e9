"""The fold for recordings of level `steps`: the queue, and the running requests with their lengths, without pages.

`seek.py` uses it in place of `trace/fold.py` where pages and the tree were not recorded. There are no digests and no
keyframes at this level, so it always begins with the first event, and trusts what it reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from learnsgl.core import Stage
from learnsgl.trace import events
from learnsgl.trace.digest import RowField
from learnsgl.trace.events import Event
from learnsgl.trace.fold import numbers
from learnsgl.trace.state import Queued, SchedulerState

Key = tuple[int, int]


class StepsFold:
    """Applies the events of one scheduler process in order.

    The release of a row isn't recorded at this level. A row counts as free when its request has finished and no step
    holds it, which is when the scheduler gives it back.

    Attributes:
        state: the state after the last applied event; its page table, references and nodes are empty.
        is_known: whether the state is known: only where the recording has its first events.
    """

    def __init__(self, *, from_start: bool = True) -> None:
        """Begin with an empty state, or (`from_start=False`) an unknown one, which stays unknown."""
        self.state = SchedulerState()
        self.is_known = from_start
        self._rows: dict[Key, int] = {}
        self._lens: dict[int, list[tuple[int, int]]] = {}

    def copy(self) -> StepsFold:
        """A fold that goes on from here by itself, without changing this one."""
        twin = StepsFold(from_start=self.is_known)
        twin.state = self.state.copy()
        twin._rows, twin._lens = dict(self._rows), dict(self._lens)
        return twin

    def apply(self, event: Event) -> None:
        """Apply one event."""
        match event:
            case events.TraceBegin():
                self.is_known = self.is_known and not event.late
            case events.TraceDropped():
                self.is_known = False
            case events.EngineReady():
                self.state.resize(event.num_rows, 0)
            case events.ReqQueued():
                self.state.queue[event.order] = Queued(
                    event.order, event.uid, event.choice, event.prompt_len, event.limit_len
                )
            case events.SchedAdmitted():
                self._admit(event)
            case events.SchedStep():
                self._submit(event)
            case events.SchedCommitted():
                self._commit(event)
            case events.ReqFinished():
                self._finish(event)

    def _leave_queue(self, key: Key) -> Queued | None:
        order = next((order for order, q in self.state.queue.items() if (q.uid, q.choice) == key), None)
        return None if order is None else self.state.queue.pop(order)

    def _admit(self, event: events.SchedAdmitted) -> None:
        rows, cached_lens = numbers(event.rows, "i4").tolist(), numbers(event.cached_lens, "i4").tolist()
        for key, row, cached in zip(_keys(event), rows, cached_lens, strict=True):
            queued = self._leave_queue(key)
            if queued is None or row >= self.state.num_rows:
                continue
            values = {
                RowField.PRESENT: 1, RowField.UID: key[0], RowField.CHOICE: key[1], RowField.STAGE: Stage.PREFILL,
                RowField.PROMPT_LEN: queued.prompt_len, RowField.LIMIT_LEN: queued.limit_len,
                RowField.CACHED_LEN: cached, RowField.SCHEDULED_LEN: cached, RowField.COMMITTED_LEN: cached,
            }  # fmt: skip
            self.state.rows[:, row] = 0
            self.state.rows[list(values), row] = list(values.values())
            self._rows[key] = row

    def _submit(self, event: events.SchedStep) -> None:
        self.state.step = event.step
        lens = numbers(event.lens, "i4").tolist()
        known = [(self._rows[key], n) for key, n in zip(_keys(event), lens, strict=True) if key in self._rows]
        self._lens[event.step] = known
        columns = self.state.rows
        for row, length in known:
            columns[RowField.SCHEDULED_LEN, row] += length
            columns[RowField.NUM_IN_FLIGHT, row] += 1
            if columns[RowField.SCHEDULED_LEN, row] >= columns[RowField.PROMPT_LEN, row]:
                columns[RowField.STAGE, row] = Stage.DECODE

    def _commit(self, event: events.SchedCommitted) -> None:
        kept = dict(zip(_keys(event), event.kept, strict=True))
        columns = self.state.rows
        for row, length in self._lens.pop(event.step, []):
            key = int(columns[RowField.UID, row]), int(columns[RowField.CHOICE, row])
            columns[RowField.COMMITTED_LEN, row] += length
            columns[RowField.NUM_OUTPUT, row] += kept.get(key, 0)
            columns[RowField.NUM_IN_FLIGHT, row] -= 1
            self._free_if_done(key, row)

    def _finish(self, event: events.ReqFinished) -> None:
        for key in _keys(event):
            row = self._rows.get(key)
            if row is None:
                self._leave_queue(key)
            else:
                self.state.rows[RowField.STAGE, row] = Stage.FINISHED
                self._free_if_done(key, row)

    def _free_if_done(self, key: Key, row: int) -> None:
        columns = self.state.rows
        if columns[RowField.STAGE, row] == Stage.FINISHED and columns[RowField.NUM_IN_FLIGHT, row] == 0:
            columns[:, row] = np.int64(0)
            del self._rows[key]


def _keys(event: Any) -> list[Key]:
    return list(zip(numbers(event.uids, "i8").tolist(), numbers(event.choices, "i4").tolist(), strict=True))
