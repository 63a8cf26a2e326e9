"""The scheduler's state after each step of a recording, folded from the events in one walk.

The figures of pages and of the tree look at every step, so they walk the trace once instead of asking for moments.
With several ranks the first scheduler speaks for all: they decide alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from learnsgl.config import TraceLevel
from learnsgl.errors import TraceError, TraceViolation
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints, violation
from learnsgl.trace.events import Event
from learnsgl.trace.fold import Fold
from learnsgl.trace.reader import Trace
from learnsgl.trace.state import SchedulerState
from learnsgl.viz.recording import missing_notes


class Moment(NamedTuple):
    """The state when a step had been submitted, or at the end of the recording.

    Attributes:
        step: number of the last step.
        ns: when.
        state: the live object of the walk: copy what you keep.
        changes: what happened to the tree since the moment before: how many nodes were `inserted`, `split` and
            `evicted`, and how many pages evictions freed (`freed`).
        submitted: the step itself; `None` at the end of the recording.
    """

    step: int
    ns: int
    state: SchedulerState
    changes: Counter[str]
    submitted: events.SchedStep | None

    @property
    def is_end(self) -> bool:
        """Whether it is the end of the recording."""
        return self.submitted is None


class StateWalk:
    """One walk over a recording.

    Attributes:
        scheduler: whose state it is.
        page_size: tokens a page; 1 where the trace doesn't tell.
        notes: what could not be seen, as sentences; complete after the walk.

    Args:
        trace: the recording, of level full.

    Raises:
        TraceError: the trace has no scheduler, or no changes of its state.
    """

    def __init__(self, trace: Trace) -> None:
        schedulers = [name for name in trace.processes if trace.process(name).does("scheduler")]
        if not schedulers:
            raise TraceError(f"{trace.path}: no scheduler recorded anything, so there are no pages to draw")
        if trace.level not in (TraceLevel.FULL, TraceLevel.TOKENS):
            raise TraceError(
                f"{trace.path}: pages and the tree are recorded at level full, and this recording has level "
                f"{trace.level}; record again without --trace-level"
            )
        self.scheduler = schedulers[0]
        self.page_size = int((trace.manifest.get("engine") or {}).get("page_size") or 1)
        self.notes: list[str] = []
        self._trace = trace
        self._num_unknown = 0

    def moments(self) -> Iterator[Moment]:
        """The moments of all steps whose state is known, and the end.

        Raises:
            TraceError: no step's state is known.
            TraceViolation: the events contradict each other.
        """
        fold = Fold(from_start=not self._trace.begins_late(self.scheduler))
        changes: Counter[str] = Counter()
        last: Event | None = None
        num_moments = 0
        for entry in self._trace.events(self.scheduler):
            if isinstance(entry.event, events.TraceDropped):
                self.notes.append(f"Events are missing after step {fold.state.step:,}: {entry.event.reason}.")
                fold = Fold(from_start=False)
            try:
                fold.apply(entry.event)
            except TraceViolation as error:
                raise violation(entry, str(error)) from error
            _count(entry.event, changes)
            if isinstance(entry.event, events.EngineReady):
                self.page_size = entry.event.page_size
            if isinstance(entry.event, events.SchedStep):
                if fold.is_known:
                    yield Moment(entry.event.step, entry.event.ns, fold.state, changes, entry.event)
                    num_moments += 1
                    changes.clear()
                else:
                    self._num_unknown += 1
            last = entry.event
        self._finish_notes(num_moments)
        if last is not None and fold.is_known:
            yield Moment(fold.state.step, last.ns, fold.state, changes, None)

    def _finish_notes(self, num_moments: int) -> None:
        if not num_moments:
            why = "no keyframe says what the state was" if self._num_unknown else "no step ran"
            raise TraceError(f"{self._trace.path}: {why} in this recording, so there is nothing to draw")
        if self._num_unknown:
            self.notes.append(
                f"The state of {self._num_unknown:,} steps is not known, since earlier events are missing; they are "
                "not shown."
            )
        self.notes += missing_notes(self._trace)


def _count(event: Event, changes: Counter[str]) -> None:
    match event:
        case events.CacheInserted():
            changes["inserted"] += 1
        case events.CacheSplit():
            changes["split"] += 1
        case events.CacheEvicted():
            changes["evicted"] += len(ints(event.nodes, "i8"))
            changes["freed"] += len(ints(event.pages, "i4"))
