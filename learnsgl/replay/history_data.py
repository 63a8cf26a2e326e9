"""What the history of a recording is made of: steps, work, messages, visits, and each request with all its moments.

`history.py` fills these from a trace. The figures, the ledger, `why`, `diff` and the workload read them. Moments are
nanoseconds on `time.monotonic_ns`; a `Place` also names the event that a moment comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from learnsgl.core import ReqKey
from learnsgl.trace.checks.base import Place

SpanNs = tuple[int, int]


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
    """A step: who was in it, and what the device and the scheduler did for it.

    Attributes:
        number: the step's number.
        runs: who was in it.
        forward_ns, sample_ns: beginning and end of the forward pass and of the sampling; `None` where the trace has
            them not.
        choices, starts: for each run its choice, and the first position of its tokens.
        kept: for each run whether its token was kept; empty until it is committed.
        schedule_ns: when it was put together.
        submit_ns: when it was queued for the device.
        masks_ns: when the masks of its constrained requests were computed; `None` where it had none.
        wait_ns: when the scheduler waited for its result.
        commit_ns: when its tokens were taken over.
        text_ns: when they became text.
        num_waiting, num_free_pages: requests left in the queue, and pages that nobody held, when it was put together.
        places: the events that say so, by `schedule`, `submit`, `wait`, `masks`, `forward`, `commit` and `text`.
    """

    number: int
    runs: tuple[Run, ...]
    forward_ns: SpanNs | None = None
    sample_ns: SpanNs | None = None
    choices: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    kept: tuple[bool, ...] = ()
    schedule_ns: SpanNs | None = None
    submit_ns: SpanNs | None = None
    masks_ns: SpanNs | None = None
    wait_ns: SpanNs | None = None
    commit_ns: SpanNs | None = None
    text_ns: SpanNs | None = None
    num_waiting: int = 0
    num_free_pages: int = 0
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def chunks(self) -> tuple[Run, ...]:
        """Chunks of prompts in it."""
        return tuple(run for run in self.runs if run.is_prefill)

    @property
    def decodes(self) -> tuple[Run, ...]:
        """Requests that decode one token in it."""
        return tuple(run for run in self.runs if not run.is_prefill)

    @property
    def keys(self) -> tuple[ReqKey, ...]:
        """The request of each run, with its choice."""
        return tuple(ReqKey(run.uid, choice) for run, choice in zip(self.runs, self.choices, strict=True))

    @property
    def device_ns(self) -> SpanNs | None:
        """From the beginning of the forward pass to the end of the sampling."""
        if self.forward_ns is None or self.sample_ns is None:
            return None
        return self.forward_ns[0], max(self.forward_ns[1], self.sample_ns[1])


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
class Letter:
    """A message with the events that tell of it; one that was never received is here too.

    Attributes:
        kinds: what was in it, such as `UserMsg`.
        channel, number: with the sender's name, its key.
        sent: the event of its sender.
        received: the event of its receiver; `None` while it was on its way when the recording stopped.
        names: the kinds without their counts.
    """

    kinds: str
    channel: str
    number: int
    sent: Place
    received: Place | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Part the kinds: `UserMsg, AbortMsg*3`."""
        self.names = tuple(part.partition("*")[0] for part in self.kinds.split(", "))


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


class Block(NamedTuple):
    """The scheduler looked at a waiting request and did not admit it.

    Attributes:
        place: the event.
        step: the step that was being put together.
        reason: budget, pages, rows, policy or prefix.
        num_behind: requests behind it in the queue.
        needed: pages (with budget, tokens) that it needs.
        free, evictable, promised: pages that nobody holds; that only the cache holds; that others will still get.
        other_uid: with prefix, the request that computes what both share.
    """

    place: Place
    step: int
    reason: str
    num_behind: int
    needed: int
    free: int
    evictable: int
    promised: int
    other_uid: int | None


@dataclass
class ReqHistory:
    """One request (one choice of it) in the scheduler, and the ending that its client saw.

    Attributes:
        key: its id and choice.
        order: its arrival number.
        prompt_len, limit_len: tokens of its prompt, and the most of prompt and answer together.
        queued, refused, admitted, finished, released, ended: the events; `None` where the trace has them not.
        admitted_step, row, cached_len, node, promised: what its admission gave it.
        blocks: each time that it was looked at and not admitted, where the reason was new.
        steps: numbers of the steps that it ran in.
        tokens: of these, the steps whose token was kept; one for each token.
        aborts: aborts that reached the scheduler, with their reasons.
        reason: how the scheduler ended it, or else how its client was told: stop, length, abort or error.
        num_generated: tokens that count.
        status, code: of the answer that its client got.
        chunks_ns: when each chunk of its stream was handed to the socket.
    """

    key: ReqKey
    order: int | None = None
    prompt_len: int | None = None
    limit_len: int | None = None
    queued: Place | None = None
    refused: Place | None = None
    admitted: Place | None = None
    finished: Place | None = None
    released: Place | None = None
    ended: Place | None = None
    admitted_step: int | None = None
    row: int | None = None
    cached_len: int = 0
    node: int = 0
    promised: int = 0
    blocks: list[Block] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    aborts: list[tuple[Place, str]] = field(default_factory=list)
    reason: str | None = None
    num_generated: int | None = None
    status: int | None = None
    code: str | None = None
    chunks_ns: list[int] = field(default_factory=list)

    @property
    def kept_tokens(self) -> list[int]:
        """The steps whose token its client got: none after the one that completed a stop string."""
        is_stopped = self.reason == "stop" and self.num_generated is not None
        return self.tokens[: self.num_generated] if is_stopped else self.tokens


@dataclass
class Journey:
    """What all choices of a request share: its way to the scheduler, and its messages.

    Attributes:
        uid: its id.
        route: the route that it came by; `None` where the trace doesn't hold its arrival.
        is_stream: whether its client asked for a stream.
        received, answered, disconnected: events of the API server.
        tokenize_ns: when its prompt became tokens.
        tokenized: the event that says so, or that it failed.
        letters: messages about it, in the order in which they were sent.
        choices: the request itself, by choice.
    """

    uid: int
    route: str | None = None
    is_stream: bool = False
    received: Place | None = None
    answered: Place | None = None
    disconnected: Place | None = None
    tokenize_ns: SpanNs | None = None
    tokenized: Place | None = None
    letters: list[Letter] = field(default_factory=list)
    choices: dict[int, ReqHistory] = field(default_factory=dict)

    @property
    def first(self) -> Place | None:
        """The first event of it that the trace holds."""
        places = [self.received, self.tokenized, *(letter.sent for letter in self.letters[:1])]
        places += [place for req in self.choices.values() for place in (req.queued, req.refused, req.admitted)]
        return min((place for place in places if place is not None), default=None)


class EngineFacts(NamedTuple):
    """What `engine.ready` said: pages of KV cache, tokens a page, table rows."""

    num_pages: int
    page_size: int
    num_rows: int


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
        journeys: every request that the trace names, by id, in the order in which they came.
        letters: every message, in the order in which they were sent.
        engine: sizes; `None` where the trace doesn't hold them.
        lost: processes that died, with the event that says so.
        last_ns: the last moment that each process recorded.
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
    journeys: dict[int, Journey] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    engine: EngineFacts | None = None
    lost: dict[str, Place] = field(default_factory=dict)
    last_ns: dict[str, int] = field(default_factory=dict)

    @property
    def uids(self) -> tuple[int, ...]:
        """All requests that ran, in the order of their ids."""
        return tuple(sorted({run.uid for step in self.steps for run in step.runs}))
