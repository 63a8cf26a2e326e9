"""What each process is doing at a moment, and what the device does, from the events just before and just after it.

`replay.py` calls this for every `ServerState`. An event that tells when its work began is recorded when it ends, so
what a process does is found by looking ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from learnsgl.replay.stream import ProcessStream
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.events import Event
from learnsgl.trace.index import ProcessIndex
from learnsgl.trace.reader import Entry, kind_of

LOOK_AHEAD = 1024
"""Events after a moment among which the end of what is under way is looked for."""


class Status(StrEnum):
    """How it stands with a process."""

    NOT_STARTED = "not started"
    """It has recorded nothing yet."""
    STARTING = "starting"
    """A part of its start-up is under way, or its parent waits for it."""
    WORKING = "working"
    """What it does was recorded with its beginning and its end, and the moment lies between them."""
    WAITING = "waiting"
    """The scheduler waits for the device; likewise."""
    IDLE = "idle"
    """Between two recorded pieces of work: it waits, or does what isn't recorded."""
    ENDED = "ended"
    """It has recorded its end."""
    KILLED = "killed"
    """Its parent has found it dead."""
    SILENT = "silent"
    """Its recording stops before this moment without an end: it was killed, or hadn't written what came next."""
    UNKNOWN = "unknown"
    """The part of its recording around this moment is missing."""


@dataclass(frozen=True, slots=True)
class ProcessActivity:
    """What a process is doing at a moment.

    Attributes:
        name: of the process.
        role: api, tokenizer, scheduler, detokenizer or llm; `None` where no file of it can be read.
        pid: its process id, likewise.
        status: how it stands with it.
        doing: what it does, in words: `schedules step 12`, `waits for step 11`, `tokenizes request 3`.
        since_ns: since when; `None` where nothing says.
        uids: requests that it is about.
    """

    name: str
    role: str | None
    pid: int | None
    status: Status
    doing: str
    since_ns: int | None
    uids: tuple[int, ...] = ()


class DeviceStage(StrEnum):
    """Where a step in flight stands on the device."""

    QUEUED = "queued"
    FORWARD = "forward pass"
    SAMPLING = "sampling"
    DONE = "done, not collected"
    UNKNOWN = "submitted"
    """The recording stops before it says when the device worked on it."""


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """A step that is submitted and not committed.

    Attributes:
        step: its number.
        uids: requests in it, prompts first.
        lens: tokens of each.
        num_prefill: the first so many are chunks of prompts; the rest decode.
        submitted_ns: when it was put together.
        stage: what the device does with it.
    """

    step: int
    uids: tuple[int, ...]
    lens: tuple[int, ...]
    num_prefill: int
    submitted_ns: int
    stage: DeviceStage

    @property
    def num_tokens(self) -> int:
        """Tokens that it computes."""
        return sum(self.lens)


class Around:
    """Looks around a moment in one process.

    Args:
        stream: its events.
        index: its files.
        parent: events of the process that started it, which records its death; `None` where there is none.
    """

    def __init__(self, stream: ProcessStream, index: ProcessIndex, parent: ProcessStream | None) -> None:
        self._stream = stream
        self._index = index
        self._parent = parent

    def activity(self, ns: int, position: int) -> ProcessActivity:
        """What the process does at a moment, the last of its events before it having the number `position`."""
        status, doing, since_ns, uids = self._status(ns, position)
        role, pid = self._index.fact("role"), self._index.fact("pid")
        return ProcessActivity(self._stream.name, role, pid, status, doing, since_ns, uids)

    def _status(self, ns: int, position: int) -> _Answer:
        stream = self._stream
        last = stream.event(position)
        if isinstance(last, events.ProcessEnded):
            before = stream.event(position - 1) if position > stream.first else None
            failed = f", after {_failure(before)}" if isinstance(before, events.ProcessFailed) else ""
            return Status.ENDED, f"has ended in order{failed}", last.ns, ()
        if position >= stream.last:
            return self._after_the_end(ns, last)
        following = stream.after(position)
        if following != position + 1 or (position < stream.first and stream.first > 1):
            missing = f"events {position + 1} to {(following or stream.first) - 1}"
            return Status.UNKNOWN, f"{missing if position else 'its first events'} are missing", None, ()
        if (working := self._work(ns, position)) is not None:
            return working
        if position < stream.first:
            return Status.NOT_STARTED, "has recorded nothing yet", None, ()
        return Status.IDLE, f"after {_name(last)}", stream.moment(position), ()

    def _after_the_end(self, ns: int, last: Event | None) -> _Answer:
        """All events that there are have happened, and none says that the process has ended."""
        since_ns = self._stream.moment(self._stream.last) if self._stream.frames else None
        death = self._death(ns, since_ns)
        if death is not None:
            code = "without an exit code" if death.exit_code is None else f"with exit code {death.exit_code}"
            why = f", after {_failure(last)}" if isinstance(last, events.ProcessFailed) else ""
            return Status.KILLED, f"died {code}{why}", death.ns, ()
        if since_ns is None:
            return Status.UNKNOWN, "nothing of it is recorded", None, ()
        return Status.SILENT, f"nothing is recorded after {_name(last)}", since_ns, ()

    def _death(self, ns: int, since_ns: int | None) -> events.ProcessLost | None:
        if self._parent is None:
            return None
        for entry in self._parent.backward(self._parent.position_at(ns)):
            event = entry.event
            if isinstance(event, events.ProcessLost) and event.name == self._stream.name:
                return event
            if since_ns is not None and event.ns < since_ns:
                return None
        return None

    def _work(self, ns: int, position: int) -> _Answer | None:
        """The next work that was recorded, if it has begun by now."""
        for entry in self._stream.forward(position + 1, position + 1 + LOOK_AHEAD):
            start_ns = getattr(entry.event, "start_ns", None)
            if start_ns is not None:
                return _words(entry.event, start_ns) if start_ns <= ns else None
        return None

    # ------------------------------------------------------------ the device, in a scheduler

    def steps_in_flight(self, ns: int, position: int) -> tuple[StepInFlight, ...]:
        """Steps that the scheduler has submitted and not committed, oldest first."""
        found: list[events.SchedStep] = []
        committed: int | None = None
        for entry in self._stream.backward(position):
            match entry.event:
                case events.SchedStep(step=step):
                    found.append(entry.event)
                    if step == 1 or (committed is not None and step <= committed + 1):
                        break
                case events.SchedCommitted(step=step) if committed is None:
                    committed = step  # steps are committed in their order, so this is the newest
                    if found and found[-1].step <= step + 1:
                        break
        pending = [step for step in reversed(found) if committed is None or step.step > committed]
        return tuple(self._in_flight(step, ns, position) for step in pending)

    def _in_flight(self, event: events.SchedStep, ns: int, position: int) -> StepInFlight:
        uids, lens = tuple(ints(event.uids, "i8").tolist()), tuple(ints(event.lens, "i4").tolist())
        stage = self._stage(event.step, ns, position)
        return StepInFlight(event.step, uids, lens, event.num_prefill, event.ns, stage)

    def _stage(self, step: int, ns: int, position: int) -> DeviceStage:
        start = max(self._stream.first, position - LOOK_AHEAD // 8)  # its event may be there, its commit not yet
        for entry in self._stream.forward(start, position + 1 + LOOK_AHEAD):
            event = entry.event
            if isinstance(event, events.EngineForward) and event.step == step:
                if ns < event.forward_start_ns:
                    return DeviceStage.QUEUED
                if ns < event.forward_end_ns:
                    return DeviceStage.FORWARD
                return DeviceStage.SAMPLING if ns < event.sample_end_ns else DeviceStage.DONE
        return DeviceStage.UNKNOWN


def _failure(event: events.ProcessFailed) -> str:
    return event.error + (f" ({event.message})" if event.message else "")


_Answer = tuple[Status, str, int | None, tuple[int, ...]]
"""Status, words, since when, and about which requests."""


def _words(event: Any, start_ns: int) -> _Answer | None:
    match event:
        case events.ProcessPhase(phase=phase):
            return Status.STARTING, f"starts up: {phase}", start_ns, ()
        case events.TokTokenized(uid=uid):
            return Status.WORKING, f"tokenizes request {uid}", start_ns, (uid,)
        case events.DetokDecoded(step=step):
            return Status.WORKING, f"turns the tokens of step {step} into text", start_ns, _uids(event)
        case events.SchedStep(step=step):
            return Status.WORKING, f"schedules step {step}", start_ns, _uids(event)
        case events.BatchSubmitted(step=step):
            return Status.WORKING, f"submits step {step}", start_ns, ()
        case events.BatchCollected(step=step):
            return Status.WAITING, f"waits for step {step}", start_ns, ()
        case events.SchedCommitted(step=step):
            return Status.WORKING, f"takes over the tokens of step {step}", start_ns, _uids(event)
    return None


def _uids(event: Any) -> tuple[int, ...]:
    return tuple(ints(event.uids, "i8").tolist())


def _name(event: Event | None) -> str:
    return kind_of(event) if event is not None else "an event of an unknown kind"


def is_about(entry: Entry, uid: int) -> bool:
    """Whether an event names a request."""
    event: Any = entry.event
    if getattr(event, "uid", None) == uid:
        return True
    uids = getattr(event, "uids", None)
    return uids is not None and len(uids) % 8 == 0 and bool((ints(uids, "i8") == uid).any())
