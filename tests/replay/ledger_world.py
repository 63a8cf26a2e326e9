"""A whole server on a virtual clock: the real scheduler and cache, and around them processes that only take time.

It writes traces of hundreds of requests in a fraction of a second, with every event that the ledger, `why`, `diff` and
the workload read. The same asks and the same seed give the same trace.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from learnsgl.config import Config, SchedulerConfig, TraceLevel
from learnsgl.core import FinishReason, ReqKey, SamplingParams
from learnsgl.message.types import AbortMsg, DetokenizeMsg, UserMsg
from learnsgl.scheduler.executor import Step, StepResult
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.trace import events as ev
from learnsgl.trace.manifest import update_manifest
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import MemoryRecorder
from tests.fakes import FakeExecutor, FakeTicket
from tests.trace.story import PIDS, Story, at_level, i4, i8, role_of, write

US, MS = 1_000, 1_000_000


@dataclass
class Ask:
    """A request: when it comes, and what it wants."""

    at_ns: int
    prompt: list[int]
    max_tokens: int | None = 8
    stream: bool = True
    leaves_at_ns: int | None = None
    ignore_eos: bool = True
    is_broken: bool = False
    n: int = 1


@dataclass
class Clock:
    """The virtual time of the scheduler's process; reading it takes a microsecond."""

    ns: int = 10 * MS

    def __call__(self) -> int:
        self.ns += US
        return self.ns


class TimedExecutor(FakeExecutor):
    """The fake executor on a virtual device, which works beside the scheduler."""

    def __init__(self, clock: Clock, rng: random.Random, *args: int) -> None:
        super().__init__(*args)
        self._clock, self._rng, self._free_ns = clock, rng, 0
        self._times: dict[int, tuple[int, int, int]] = {}

    def submit(self, step: Step) -> FakeTicket:
        start = max(self._clock.ns + 20 * US, self._free_ns + 2 * US)
        forward_end = start + 500 * US + int(step.lens.sum()) * 40 * US + self._rng.randrange(200 * US)
        self._free_ns = forward_end + 30 * US
        self._times[step.number] = start, forward_end, self._free_ns
        return super().submit(step)

    def collect(self, ticket: FakeTicket) -> StepResult:
        result = super().collect(ticket)
        start, forward_end, end = self._times.pop(ticket.number)
        self._clock.ns = max(self._clock.ns, end) + 15 * US
        return StepResult(ticket.number, result.tokens, start, forward_end, forward_end + US, end)


@dataclass
class World:
    """The run of a server.

    Attributes:
        story: the events of each process, in the order of their moments.
    """

    asks: list[Ask]
    seed: int = 0
    num_pages: int = 256
    page_size: int = 1
    max_model_len: int = 256
    num_rows: int = 8
    options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._clock = Clock()
        self._counts: dict[tuple[str, str], int] = {}
        self._text_free_ns = {"tokenizer-0": 0, "detokenizer": 0}
        self._gone: dict[int, int] = {}
        self._bodies: dict[int, Ask] = {}
        self._num_ended: dict[int, int] = {}
        self.story: Story = {name: [] for name in PIDS}
        executor = TimedExecutor(
            self._clock, self._rng, self.num_pages, self.page_size, self.max_model_len, self.num_rows
        )
        self._recorder = MemoryRecorder()
        config = SchedulerConfig(max_running_requests=self.num_rows, **self.options)  # type: ignore[arg-type]
        self._scheduler = Scheduler(config, executor, self._recorder, clock=self._clock, run_key=b"key")
        self._run()

    def write(self, root: Path, level: TraceLevel = TraceLevel.FULL, *, only: Iterable[str] = ()) -> Trace:
        """Record the story in a folder of its own, and open it."""
        story = {name: list(told) for name, told in self.story.items() if not only or name in only}
        folder = write(root, at_level(story, level), level, frame_events=64)
        sizes = {"max_running_requests": self.num_rows, "num_pages": self.num_pages, "page_size": self.page_size}
        update_manifest(folder, config=Config().with_values({**sizes, **self.options}).to_json())
        return Trace.open(folder)

    # ------------------------------------------------------------ the run

    def _run(self) -> None:
        for name in PIDS:
            self._tell(
                name, ev.ProcessStarted(MS, name, role_of(name), PIDS[name], 1), ev.TraceBegin(MS, "full", False)
            )
        self._tell(
            "scheduler-0",
            ev.EngineReady(
                2 * MS, "fake", "fake", "none", self.num_pages, self.page_size, self.max_model_len, self.num_rows, {}
            ),
        )
        arrivals = sorted(self._arrivals(), key=lambda item: item[0])
        while arrivals or self._scheduler.has_work:
            if not self._scheduler.has_work:
                self._clock.ns = max(self._clock.ns, arrivals[0][0] + 50 * US)
            while arrivals and arrivals[0][0] + 30 * US <= self._clock.ns:
                sent_ns, number, message = arrivals.pop(0)
                self._receive("tokenizer-0", "scheduler", "scheduler-0", number, sent_ns, self._clock())
                self._take_recorded()
                self._scheduler.receive([message])
            reply = self._scheduler.step()
            self._take_recorded()
            if reply is not None:
                self._deliver(reply)
        self._scheduler.close()
        self._take_recorded()
        last = max(event.ns for told in self.story.values() for event in told)
        for told in self.story.values():
            told.sort(key=lambda event: event.ns)
            told.append(ev.ProcessEnded(last + MS))

    def _arrivals(self) -> list[tuple[int, int, UserMsg | AbortMsg]]:
        """Everything up to the scheduler's socket: the API server and the tokenizer."""
        actions = [(ask.at_ns, uid, False) for uid, ask in enumerate(self.asks, start=1)]
        actions += [(ask.leaves_at_ns, uid, True) for uid, ask in enumerate(self.asks, start=1) if ask.leaves_at_ns]
        found: list[tuple[int, int, UserMsg | AbortMsg]] = []
        for at, uid, leaves in sorted(actions):
            ask = self.asks[uid - 1]
            self._bodies[uid] = ask
            if leaves:
                self._gone[uid] = at
                self._tell("api", ev.HttpDisconnected(at, uid))
            else:
                self._tell("api", ev.HttpReceived(at, uid, "/v1/completions", ask.stream, 50, ask.n))
            kind = "AbortMsg" if leaves else "TokenizeMsg"
            received = self._letter("api", "tokenizer-0", "tokenizer-0", at + 12 * US, kind, [uid])
            start = max(received, self._text_free_ns["tokenizer-0"]) + 5 * US
            end = start if leaves else start + 100 * US + len(ask.prompt) * US
            if not leaves and ask.is_broken:
                self._tell("tokenizer-0", ev.TokFailed(end, uid, "invalid_value"))
                back = self._letter("tokenizer-0", "api", "api", end + US, "UserReply", [uid])
                self._end(ReqKey(uid), back, FinishReason.ERROR, 400)
                continue
            if not leaves:
                self._tell("tokenizer-0", ev.TokTokenized(end, uid, start, len(ask.prompt)))
            self._text_free_ns["tokenizer-0"] = end + 4 * US
            kind = "AbortMsg" if leaves else "UserMsg"
            number = self._send("tokenizer-0", "scheduler", end + 4 * US, kind, [uid])
            found.append((end + 4 * US, number, AbortMsg(uid) if leaves else _user_msg(uid, ask)))
        return found

    def _deliver(self, reply: DetokenizeMsg) -> None:
        """A reply's way to the clients: the detokenizer and the API server."""
        choices = np.frombuffer(reply.choices, "<i4").tolist()
        with_token = [ReqKey(*key) for key in zip(np.frombuffer(reply.uids, "<i8").tolist(), choices, strict=True)]
        named = [*[a.uid for a in reply.accepted], *[key.uid for key in with_token], *[e.uid for e in reply.endings]]
        uids = list(dict.fromkeys(named))
        received = self._letter("scheduler-0", "detokenizer", "detokenizer", self._clock(), "DetokenizeMsg", uids)
        start = max(received, self._text_free_ns["detokenizer"]) + 3 * US
        end = start + 20 * US * max(1, len(uids))
        if with_token:
            count = len(with_token)
            self._tell(
                "detokenizer", ev.DetokDecoded(end, start, reply.step, reply.uids, reply.choices, i4(*[4] * count))
            )
        self._text_free_ns["detokenizer"] = end + 6 * US
        at_api = self._letter("detokenizer", "api", "api", end + 6 * US, "UserReply", uids)
        for place, (uid, choice) in enumerate(with_token):
            chunk_ns = at_api + (place + 1) * 25 * US
            if self._bodies[uid].stream and chunk_ns < self._gone.get(uid, chunk_ns + 1):
                self._tell("api", ev.HttpStreamed(chunk_ns + MS, i8(uid), i4(choice), i8(chunk_ns), i4(30)))
        for ending in reply.endings:
            status = 200 if ending.error is None else ending.error.status
            counts = (ending.num_prompt_tokens, ending.num_cached_tokens, ending.num_generated_tokens)
            self._end(ReqKey(ending.uid, ending.choice), at_api, ending.reason, status, counts)

    def _end(
        self, key: ReqKey, ns: int, reason: FinishReason, status: int, counts: tuple[int, int, int] = (0, 0, 0)
    ) -> None:
        uid = key.uid
        gone = self._gone.get(uid, ns + 1) <= ns
        told = (FinishReason.ABORT, 499) if gone else (reason, status)
        code = None if told[1] == 200 else "some_code"
        self._tell("api", ev.ReqEnded(ns + US, *key, told[0].value, told[1], code, *counts))
        self._num_ended[uid] = self._num_ended.get(uid, 0) + 1
        if not gone and self._num_ended[uid] == (self._bodies[uid].n if status == 200 else 1):
            after_ns = 2 * MS if self._bodies[uid].stream else 60 * US
            self._tell("api", ev.HttpAnswered(ns + after_ns, uid, status, 99))

    # ------------------------------------------------------------ events

    def _tell(self, process: str, *told: ev.Event) -> None:
        self.story[process].extend(told)

    def _take_recorded(self) -> None:
        self._tell("scheduler-0", *self._recorder.events)
        self._recorder.events.clear()

    def _send(self, sender: str, channel: str, ns: int, kind: str, uids: list[int]) -> int:
        number = self._counts[sender, channel] = self._counts.get((sender, channel), 0) + 1
        self._tell(sender, ev.MsgSent(ns, channel, number, kind, i8(*uids), 60))
        return number

    def _receive(self, sender: str, channel: str, receiver: str, number: int, sent_ns: int, ns: int) -> None:
        self._tell(receiver, ev.MsgReceived(ns, sender, channel, number, sent_ns, 60))

    def _letter(self, sender: str, channel: str, receiver: str, ns: int, kind: str, uids: list[int]) -> int:
        """Send a message to a process that takes it when it is free; returns when it has it."""
        number = self._send(sender, channel, ns, kind, uids)
        free_ns = self._text_free_ns.get(receiver, 0)
        received = max(ns + 40 * US + self._rng.randrange(20 * US), free_ns)
        self._receive(sender, channel, receiver, number, ns, received)
        return received


def _user_msg(uid: int, ask: Ask) -> UserMsg:
    sampling = SamplingParams(max_tokens=ask.max_tokens, ignore_eos=ask.ignore_eos, n=ask.n)
    return UserMsg(uid, np.array(ask.prompt, dtype=np.int32).tobytes(), sampling)


def random_asks(num: int, seed: int = 0, *, longest: int = 60, apart_ns: int = 2 * MS) -> list[Ask]:
    """Requests of all sorts: long and short, streamed or not, some whose clients leave, with shared prefixes."""
    rng = random.Random(seed)
    prefix = [rng.randrange(1, 90) for _ in range(longest // 2)]
    asks = []
    at = 20 * MS
    for _ in range(num):
        at += rng.randrange(2 * apart_ns)
        own = [rng.randrange(1, 90) for _ in range(rng.randint(1, longest // 2))]
        prompt = prefix + own if rng.random() < 0.4 else own
        leaves = at + rng.randrange(40 * MS) if rng.random() < 0.15 else None
        asks.append(Ask(at, prompt, rng.randint(1, 20), rng.random() < 0.75, leaves, rng.random() < 0.5))
    return asks
