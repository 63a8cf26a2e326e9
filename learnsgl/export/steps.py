"""The steps of each scheduler, put together from their events: who ran, on the device when, committed when.

The tracks ask for a step while it is open; the tables take each one when it is over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.reader import Entry

Span = tuple[int, int]
MAX_OPEN = 64
"""Steps of a process that may be open at once; older ones count as over, for their end isn't in the trace."""


@dataclass
class StepRecord:
    """One step.

    Attributes:
        process: the scheduler.
        number: the step's.
        schedule_ns: when it was put together, from and to.
        uids, choices, starts, lens: int64 [num_requests]; the runs of tokens in it.
        num_prefill: the first so many are chunks of prompts.
        num_waiting: requests left in the queue.
        num_free_pages: pages that nobody holds.
        submit_ns, wait_ns, commit_ns: when the scheduler queued it, waited for it and took its result over.
        forward_ns, sample_ns: when the device worked on it.
        num_kept: tokens that count since then.
    """

    process: str
    number: int
    schedule_ns: Span
    uids: npt.NDArray[np.int64]
    choices: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lens: npt.NDArray[np.int64]
    num_prefill: int
    num_waiting: int
    num_free_pages: int
    submit_ns: Span | None = None
    wait_ns: Span | None = None
    forward_ns: Span | None = None
    sample_ns: Span | None = None
    commit_ns: Span | None = None
    num_kept: int | None = None

    @property
    def kind(self) -> str:
        """prefill, decode, or mixed where both are in it."""
        if not self.num_prefill:
            return "decode"
        return "prefill" if self.num_prefill == len(self.uids) else "mixed"

    @property
    def num_tokens(self) -> int:
        """Tokens that it computes."""
        return int(self.lens.sum())

    @property
    def num_prefill_tokens(self) -> int:
        """Of these, tokens of prompts."""
        return int(self.lens[: self.num_prefill].sum())


class StepStream:
    """Turns events into steps."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, StepRecord]] = {}

    def find(self, process: str, number: int) -> StepRecord | None:
        """A step that isn't over."""
        return self._open.get(process, {}).get(number)

    def take(self, entry: Entry) -> StepRecord | None:
        """Take one event over; returns a step that is over with it."""
        event = entry.event
        if isinstance(event, events.SchedStep):
            return self._begin(entry.process, event)
        if not isinstance(
            event, (events.BatchSubmitted, events.BatchCollected, events.EngineForward, events.SchedCommitted)
        ):
            return None
        step = self.find(entry.process, event.step)
        match event:
            case _ if step is None:  # it was scheduled before the trace begins
                return None
            case events.BatchSubmitted():
                step.submit_ns = event.start_ns, event.ns
            case events.BatchCollected():
                step.wait_ns = event.start_ns, event.ns
            case events.EngineForward():
                step.forward_ns = event.forward_start_ns, event.forward_end_ns
                step.sample_ns = event.sample_start_ns, event.sample_end_ns
            case events.SchedCommitted():
                step.commit_ns = event.start_ns, event.ns
                step.num_kept = int(ints(event.kept, "u1").sum())
                return self._open[entry.process].pop(event.step)
        return None

    def rest(self) -> list[StepRecord]:
        """After the last event: steps whose end isn't in the trace."""
        left = [step for steps in self._open.values() for step in steps.values()]
        self._open.clear()
        return left

    def _begin(self, process: str, event: events.SchedStep) -> StepRecord | None:
        steps = self._open.setdefault(process, {})
        steps[event.step] = StepRecord(
            process, event.step, (event.start_ns, event.ns), ints(event.uids, "i8").astype(np.int64),
            ints(event.choices, "i4").astype(np.int64), ints(event.starts, "i4").astype(np.int64),
            ints(event.lens, "i4").astype(np.int64), event.num_prefill, event.num_waiting, event.num_free_pages,
        )  # fmt: skip
        return steps.pop(next(iter(steps))) if len(steps) > MAX_OPEN else None
