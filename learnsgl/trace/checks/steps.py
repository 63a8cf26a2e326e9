"""Every step was scheduled, ran on the device and was taken over, in this order, without a gap in their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from learnsgl.trace import events
from learnsgl.trace.checks.base import Check, Handler, Missing, Place, Scope, place_of, violation
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Entry


@dataclass(slots=True)
class _Step:
    """A step that was scheduled and not taken over yet."""

    place: Place
    uids: bytes
    choices: bytes
    has_run: bool = False


@dataclass(slots=True)
class _Lane:
    """The steps of one scheduler.

    Attributes:
        last: number of the newest step.
        last_forward_ns: when the device began the newest forward pass that is known.
        open: steps not taken over yet.
        first_known: number of the first step that the recording holds; events of earlier ones are excused.
    """

    last: int | None = None
    last_forward_ns: int = 0
    open: dict[int, _Step] = field(default_factory=dict)
    first_known: int = 1


class StepCheck(Check):
    """The steps of every scheduler, from `sched.step` over `engine.forward` to `sched.committed`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._lanes: dict[str, _Lane] = {name: _Lane() for name in scope.trace.processes}
        self._num_whole = 0

    def handlers(self) -> dict[type[Event], Handler]:
        """The kinds that carry a step's number and its times."""
        return {
            events.SchedStep: self._on_step,
            events.EngineForward: self._on_forward,
            events.SchedCommitted: self._on_committed,
            events.BatchSubmitted: self._on_work,
            events.BatchMasked: self._on_work,
            events.BatchCollected: self._on_work,
            events.TraceDropped: self._on_dropped,
        }

    def _on_step(self, entry: Entry, event: events.SchedStep) -> None:
        lane = self._lanes[entry.process]
        if lane.last is None:
            if event.step != 1 and not self._scope.has_holes(entry.process):
                raise violation(entry, f"the first step is {event.step}; steps count from 1")
            lane.first_known = event.step
        elif event.step != lane.last + 1:
            raise violation(entry, f"step {event.step} follows step {lane.last}")
        _check_interval(entry, "scheduling", event.start_ns, event.ns)
        lane.last = event.step
        lane.open[event.step] = _Step(place_of(entry), event.uids, event.choices)

    def _on_forward(self, entry: Entry, event: events.EngineForward) -> None:
        lane, step = self._open(entry, event.step)
        if step is None:
            return
        if step.has_run:
            raise violation(entry, f"step {event.step} ran before")
        _check_interval(entry, "the forward pass", event.forward_start_ns, event.forward_end_ns)
        _check_interval(entry, "the sampling", event.sample_start_ns, event.sample_end_ns)
        if event.sample_start_ns < event.forward_end_ns:
            raise violation(entry, f"step {event.step} sampled before its forward pass had ended")
        if event.forward_start_ns < lane.last_forward_ns:
            raise violation(entry, f"the forward pass of step {event.step} began before that of an earlier step")
        _check_device(entry, event, len(step.uids) // 8)
        lane.last_forward_ns = event.forward_start_ns
        step.has_run = True

    def _on_committed(self, entry: Entry, event: events.SchedCommitted) -> None:
        lane, step = self._open(entry, event.step)
        if step is None:
            return
        if not step.has_run:
            raise violation(entry, f"step {event.step} was taken over, but no engine.forward says that it ran")
        if event.step != min(lane.open):
            raise violation(entry, f"step {event.step} was taken over before step {min(lane.open)}")
        if (event.uids, event.choices) != (step.uids, step.choices):
            raise violation(entry, f"step {event.step} was taken over for other requests than it was scheduled for")
        _check_interval(entry, "taking it over", event.start_ns, event.ns)
        del lane.open[event.step]
        self._num_whole += 1

    def _on_work(self, entry: Entry, event: events.BatchSubmitted | events.BatchMasked | events.BatchCollected) -> None:
        lane = self._lanes[entry.process]
        if event.step not in lane.open and event.step >= lane.first_known and lane.last is not None:
            raise violation(entry, f"step {event.step} is not under way")
        _check_interval(entry, "the wait", event.start_ns, event.ns)

    def _on_dropped(self, entry: Entry, event: events.TraceDropped) -> None:
        self._lanes[entry.process] = _Lane()  # begin anew behind the hole

    def _open(self, entry: Entry, number: int) -> tuple[_Lane, _Step | None]:
        """The step under way with this number; none where it was scheduled in a part that is missing."""
        lane = self._lanes[entry.process]
        step = lane.open.get(number)
        in_hole = self._scope.has_holes(entry.process) and (lane.last is None or number < lane.first_known)
        if step is None and not in_hole:
            raise violation(entry, f"step {number} is not under way: it was never scheduled, or taken over before")
        return lane, step

    def finish(self) -> Iterator[Missing]:
        """Steps that were never taken over."""
        for process, lane in self._lanes.items():
            if self._scope.is_cut(process):
                continue
            for number, step in lane.open.items():
                what = "taken over (sched.committed)" if step.has_run else "run by the engine (engine.forward)"
                yield Missing(step.place, f"step {number} was never {what}")

    def proved(self) -> list[str]:
        """Whole steps."""
        return [f"steps     {self._num_whole:,} scheduled, run and taken over, in order"]


def _check_interval(entry: Entry, what: str, start_ns: int, end_ns: int) -> None:
    if start_ns > end_ns:
        raise violation(entry, f"{what} ended {start_ns - end_ns} ns before it began")


def _check_device(entry: Entry, event: events.EngineForward, num_runs: int) -> None:
    """Where the device has a clock of its own: nothing begins before its launch, or ends after the news."""
    if event.launch_ns is not None and event.forward_start_ns < event.launch_ns:
        raise violation(
            entry, f"the forward pass began {event.launch_ns - event.forward_start_ns} ns before its launch"
        )
    if event.launch_ns is not None and event.sample_end_ns > event.ns:
        raise violation(entry, f"the sampling ended {event.sample_end_ns - event.ns} ns after the host had its tokens")
    if event.uncertainty_ns < 0:
        raise violation(entry, f"the uncertainty of its times is {event.uncertainty_ns} ns")
    if event.graph_size is not None and event.graph_size < num_runs:
        raise violation(entry, f"{num_runs} runs went into a CUDA graph of {event.graph_size}")
