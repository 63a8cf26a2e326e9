"""The life of each request, told when it is over, so that an export forgets it and a long trace doesn't fill memory.

All formats but JSON lines use it.
"""

from __future__ import annotations

from learnsgl.config import TraceLevel
from learnsgl.trace.life import RequestLife
from learnsgl.trace.lives import LifeReader, RequestRecord
from learnsgl.trace.reader import Entry, Trace


class LifeStream:
    """Turns events into requests that are over.

    Args:
        trace: whose events will come.
    """

    def __init__(self, trace: Trace) -> None:
        self._has_api = any(trace.process(name).does("api") for name in trace.processes)
        self._records_release = trace.level != TraceLevel.STEPS
        self._over = _Numbers()
        self._reader = LifeReader(trace, self._over, all_moments=False)

    def take(self, entry: Entry) -> list[RequestRecord]:
        """Take one event over; returns the requests that are over with it."""
        records = self._reader.records
        return [self._close(uid) for uid in self._reader.take(entry) if uid in records and self._is_over(records[uid])]

    def rest(self) -> list[RequestRecord]:
        """After the last event: requests whose end isn't in the trace, in the order in which they came."""
        left = [self._close(uid) for uid in list(self._reader.records)]
        return sorted(left, key=lambda record: record.uid)

    def _close(self, uid: int) -> RequestRecord:
        self._over.add(uid)
        return self._reader.records.pop(uid)

    def _is_over(self, record: RequestRecord) -> bool:
        lives = record.lives.values()
        if self._has_api:
            told = bool(lives) and (record.answered_ns is not None or record.client_gone)
            return told and all(life.ended_ns is not None and self._is_released(life) for life in lives)
        return all(life.reason is not None and self._is_released(life) for life in lives)

    def _is_released(self, life: RequestLife) -> bool:
        has_row = life.admitted_ns is not None or bool(life.committed_ns)  # admitted before the trace begins, perhaps
        return not self._records_release or not has_row or life.released_ns is not None


class _Numbers:
    """A set of numbers that are mostly all those up to some number: ids of requests that are over."""

    def __init__(self) -> None:
        self._all_up_to = 0
        self._others: set[int] = set()

    def add(self, number: int) -> None:
        self._others.add(number)
        while self._all_up_to + 1 in self._others:
            self._all_up_to += 1
            self._others.remove(self._all_up_to)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and (0 < number <= self._all_up_to or number in self._others)
