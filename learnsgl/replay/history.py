"""The history of a recording, read once from beginning to end: steps, work, messages and requests with their moments.

The figures draw it and the ledger divides it up; it is handed out beside a figure, so that tests and notebooks can look
at numbers rather than at pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from learnsgl.errors import TraceError
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.reader import Entry, Trace


class Run(NamedTuple):
    """The tokens of one request in one step.

    Attributes:
        uid: the request.
        num_tokens: its tokens in the step.
        is_prefill: whether they are a chunk of its prompt.
    """

    uid: int
    num_tokens: int
    is_prefill: bool


@dataclass
class DeviceStep:
    """What the device did for one step.

    Attributes:
        number: the step's number.
        runs: who was in it.
        forward_ns, sample_ns: beginning and end of the forward pass and of the sampling; `None` where the trace has
            them not.
    """

    number: int
    runs: tuple[Run, ...]
    forward_ns: tuple[int, int] | None = None
    sample_ns: tuple[int, int] | None = None

    @property
    def chunks(self) -> tuple[Run, ...]:
        """Chunks of prompts in it."""
        return tuple(run for run in self.runs if run.is_prefill)

    @property
    def decodes(self) -> tuple[Run, ...]:
        """Requests that decode one token in it."""
        return tuple(run for run in self.runs if not run.is_prefill)


class Work(NamedTuple):
    """Something that a process did, from a moment to a moment.

    Attributes:
        process: its name.
        kind: schedule, submit, wait, commit, tokenize or detokenize.
        start_ns, end_ns: when.
        uids: for which requests.
    """

    process: str
    kind: str
    start_ns: int
    end_ns: int
    uids: tuple[int, ...]


class Message(NamedTuple):
    """A message between two processes.

    Attributes:
        kinds: what was in it, such as `UserMsg`.
        sender, receiver: names of the processes.
        sent_ns, received_ns: when it was handed to ZMQ, and when it was taken from it.
        uids: requests that it is about.
    """

    kinds: str
    sender: str
    receiver: str
    sent_ns: int
    received_ns: int
    uids: tuple[int, ...]


@dataclass
class Visit:
    """A request as the API server saw it.

    Attributes:
        uid: its id.
        received_ns, answered_ns: its first and its last moment there.
        chunks_ns: when chunks of its stream were handed to the socket.
    """

    uid: int
    received_ns: int
    answered_ns: int | None = None
    chunks_ns: list[int] = field(default_factory=list)


@dataclass
class History:
    """What happened, in the order in which it was recorded.

    Attributes:
        processes: names, in the order in which a request meets them.
        scheduler: the name of the (first) scheduler.
        origin_ns: the first request's arrival; the axes count from here.
        end_ns: the last thing that was done for a request.
        steps, work, messages, visits: what happened.
        cached_tokens: from a request's id to the tokens of its prompt that came from the cache.
    """

    processes: tuple[str, ...]
    scheduler: str
    origin_ns: int = 0
    end_ns: int = 0
    steps: list[DeviceStep] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    cached_tokens: dict[int, int] = field(default_factory=dict)

    @property
    def uids(self) -> tuple[int, ...]:
        """All requests that ran, in the order of their ids."""
        return tuple(sorted({run.uid for step in self.steps for run in step.runs}))


def read_history(trace: Trace) -> History:
    """Read a recording.

    Raises:
        TraceError: no request ran in the trace.
    """
    schedulers = [name for name in trace.processes if trace.process(name).does("scheduler")]
    reader = _Reader(History(trace.processes, schedulers[0] if schedulers else ""))
    for entry in trace.events():
        reader.take(entry)
    data = reader.data
    if not data.steps:
        raise TraceError(f"{trace.path}: no request ran in this recording, so there is nothing to draw")
    starts = [visit.received_ns for visit in data.visits] or reader.step_starts_ns
    ends = [step.sample_ns[1] for step in data.steps if step.sample_ns is not None] + reader.step_starts_ns
    ends += [visit.answered_ns for visit in data.visits if visit.answered_ns is not None]
    data.origin_ns, data.end_ns = min(starts), max(ends)
    return data


class _Reader:
    """Feeds a `History` from events that come in the order of their moments."""

    def __init__(self, data: History) -> None:
        self.data = data
        self.step_starts_ns: list[int] = []
        self._steps: dict[int, DeviceStep] = {}
        self._visits: dict[int, Visit] = {}
        self._sent: dict[tuple[str, str, int], events.MsgSent] = {}

    def take(self, entry: Entry) -> None:
        """Take one event over, if the history holds its kind."""
        event = entry.event
        match event:
            case events.MsgSent():
                self._sent[entry.process, event.channel, event.number] = event
            case events.MsgReceived():
                self._receive(entry.process, event)
            case events.TokTokenized():
                self._work(entry, "tokenize", event.start_ns, (event.uid,))
            case events.DetokDecoded():
                self._work(entry, "detokenize", event.start_ns, _uids(event))
            case events.HttpReceived():
                self._visits[event.uid] = Visit(event.uid, event.ns)
                self.data.visits.append(self._visits[event.uid])
            case events.HttpStreamed():
                for uid, sent_ns in zip(_uids(event), ints(event.sent_ns, "i8").tolist(), strict=True):
                    if uid in self._visits:  # else it came before the recording begins
                        self._visits[uid].chunks_ns.append(sent_ns)
            case events.HttpAnswered() if event.uid in self._visits:
                self._visits[event.uid].answered_ns = event.ns
            case _ if entry.process == self.data.scheduler:
                self._take_step(entry, event)

    def _take_step(self, entry: Entry, event: Any) -> None:
        match event:
            case events.SchedStep():
                lens = ints(event.lens, "i4").tolist()
                runs = tuple(
                    Run(uid, length, place < event.num_prefill)
                    for place, (uid, length) in enumerate(zip(_uids(event), lens, strict=True))
                )
                self._steps[event.step] = DeviceStep(event.step, runs)
                self.data.steps.append(self._steps[event.step])
                self.step_starts_ns.append(event.start_ns)
                self._work(entry, "schedule", event.start_ns, _uids(event))
            case events.SchedAdmitted():
                cached_lens = ints(event.cached_lens, "i4").tolist()
                self.data.cached_tokens |= dict(zip(_uids(event), cached_lens, strict=True))
            case events.BatchSubmitted():
                self._work(entry, "submit", event.start_ns, ())
            case events.BatchCollected():
                self._work(entry, "wait", event.start_ns, ())
            case events.SchedCommitted():
                self._work(entry, "commit", event.start_ns, _uids(event))
            case events.EngineForward() if event.step in self._steps:
                step = self._steps[event.step]
                step.forward_ns = event.forward_start_ns, event.forward_end_ns
                step.sample_ns = event.sample_start_ns, event.sample_end_ns

    def _work(self, entry: Entry, kind: str, start_ns: int, uids: tuple[int, ...]) -> None:
        self.data.work.append(Work(entry.process, kind, start_ns, entry.event.ns, uids))

    def _receive(self, receiver: str, event: events.MsgReceived) -> None:
        sent = self._sent.pop((event.sender, event.channel, event.number), None)
        if sent is not None:  # else it was sent before the recording begins
            uids = tuple(ints(sent.uids, "i8").tolist())
            self.data.messages.append(Message(sent.kinds, event.sender, receiver, sent.ns, event.ns, uids))


def _uids(event: Any) -> tuple[int, ...]:
    return tuple(ints(event.uids, "i8").tolist())
