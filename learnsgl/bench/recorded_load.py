"""A recording as a server under load writes it, for measuring what reads recordings: `replay.py` makes these.

The scheduler is the real one on an executor that answers at once; the events of the processes around it are written
as the workers would, one message after the other, without sockets.
"""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learnsgl.bench.null_executor import NullExecutor
from learnsgl.config import Config, SchedulerConfig, TraceConfig
from learnsgl.core import SamplingParams
from learnsgl.message.types import DetokenizeMsg, UserMsg
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.scheduler.worker import record_engine
from learnsgl.trace import events
from learnsgl.trace.manifest import create_run
from learnsgl.trace.recorder import Recorder, open_recorder

ROLES = {"api": "api", "tokenizer-0": "tokenizer", "scheduler-0": "scheduler", "detokenizer": "detokenizer"}
PREFIX_LEN = 32
NUM_PREFIXES = 16


@dataclass(frozen=True)
class Shape:
    """The load whose recording is made.

    Attributes:
        num_running: requests that run at once; as soon as one ends, another arrives.
        num_nodes: nodes of the radix tree, roughly, once it has grown.
        prompt_len: tokens of a prompt; the first 32 are one of 16 prefixes.
        output_len: tokens that each request generates.
        page_size: tokens a page.
    """

    num_running: int = 256
    num_nodes: int = 1000
    prompt_len: int = 64
    output_len: int = 256
    page_size: int = 1

    @property
    def num_pages(self) -> int:
        """Pages for all that run, and for what ended requests leave in the tree: two nodes each."""
        pages = -(-(self.prompt_len + self.output_len) // self.page_size)
        return (self.num_running + max(1, (self.num_nodes - self.num_running) // 3)) * pages


class RecordedLoad:
    """A server without models or sockets that records what it does.

    Args:
        root: folder in which the run's folder is made.
        shape: of the load.

    Attributes:
        folder: the run's folder.
    """

    def __init__(self, root: Path, shape: Shape) -> None:
        self._shape = shape
        self._rng = np.random.default_rng(0)
        self._uids = itertools.count(1)
        self._sent: Counter[tuple[str, str]] = Counter()
        self._closing = ExitStack()
        config = TraceConfig(trace=root, trace_max_bytes=0)
        self.folder = create_run(root, Config(trace=config).to_json(), ["learnsgl", "bench", "replay"])
        self._recorders = {name: open_recorder(self.folder, config, name, role) for name, role in ROLES.items()}
        for recorder in self._recorders.values():
            self._closing.callback(recorder.close)
        self._prefixes = self._tokens(NUM_PREFIXES * PREFIX_LEN).reshape(NUM_PREFIXES, PREFIX_LEN)
        max_model_len = shape.prompt_len + shape.output_len + shape.page_size
        executor = NullExecutor(shape.num_pages, shape.page_size, max_model_len)
        scheduling = SchedulerConfig(max_running_requests=shape.num_running, policy="mixed")
        record_engine(self._recorders["scheduler-0"], executor.info.under(scheduling))
        self._scheduler = Scheduler(scheduling, executor, self._recorders["scheduler-0"], run_key=b"bench")
        self._closing.callback(self._scheduler.close)

    @property
    def num_events(self) -> int:
        """Events of all processes."""
        return sum(recorder.num_events for recorder in self._recorders.values())

    @property
    def num_nodes(self) -> int:
        """Nodes of the radix tree."""
        return len(self._scheduler.running.cache.node_ids())

    def record(self, num_events: int) -> None:
        """Let requests come and go until so many events are recorded; then let them end, and the recording too."""
        with self._closing:
            while self.num_events < num_events:
                self.step()
            while self._scheduler.has_work:
                self._step()

    def step(self) -> None:
        """One iteration of every process, before which as many requests arrive as have ended."""
        self._refill()
        self._step()

    def _refill(self) -> None:
        """Let as many requests arrive as have ended."""
        short = self._shape.num_running - self._scheduler.num_unfinished
        first = not self._scheduler.step_number
        for place in range(short):  # the first ones end one after the other, as those of a server that ran for long
            share = (place + 1) / short if first else 1.0
            self._arrive(max(1, int(self._shape.output_len * share)))

    def _step(self) -> None:
        """One iteration of every process."""
        reply = self._scheduler.step()
        if reply is not None:
            self._reply(reply)
        for recorder in self._recorders.values():
            recorder.flush_if_due()

    def _tokens(self, num_tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return self._rng.integers(1, 50_000, size=num_tokens, dtype=np.int32)

    def _recorder(self, name: str) -> Recorder:
        return self._recorders[name]

    def _send(self, sender: str, channel: str, receiver: str, kinds: str, uids: bytes, num_bytes: int) -> None:
        self._sent[sender, channel] += 1
        number, to, at = self._sent[sender, channel], self._recorder(receiver), self._recorder(sender)
        sent_ns = at.now()
        at.emit(events.MsgSent(sent_ns, channel, number, kinds, uids, num_bytes))
        to.emit(events.MsgReceived(to.now(), sender, channel, number, sent_ns, num_bytes))

    def _arrive(self, output_len: int) -> None:
        uid, shape, api = next(self._uids), self._shape, self._recorder("api")
        uids = np.array([uid], "<i8").tobytes()
        api.emit(events.HttpReceived(api.now(), uid, "/v1/completions", True, 100))
        self._send("api", "tokenizer-0", "tokenizer-0", "TokenizeMsg", uids, 100)
        tokenizer = self._recorder("tokenizer-0")
        tokenizer.emit(events.TokTokenized(tokenizer.now(), uid, tokenizer.now(), shape.prompt_len))
        self._send("tokenizer-0", "scheduler", "scheduler-0", "UserMsg", uids, 4 * shape.prompt_len)
        prefix = self._prefixes[int(self._rng.integers(NUM_PREFIXES))]
        prompt = np.concatenate([prefix, self._tokens(shape.prompt_len - PREFIX_LEN)])
        self._scheduler.receive(
            [UserMsg(uid, prompt.tobytes(), SamplingParams(max_tokens=output_len, ignore_eos=True))]
        )

    def _reply(self, reply: DetokenizeMsg) -> None:
        """Tokens on their way to the clients, and the endings."""
        n = len(reply.uids) // 8
        self._send("scheduler-0", "detokenizer", "detokenizer", "DetokenizeMsg", reply.uids, 16 * n)
        detokenizer, api = self._recorder("detokenizer"), self._recorder("api")
        ones, start_ns = np.ones(n, "<i4").tobytes(), detokenizer.now()
        if n:
            detokenizer.emit(
                events.DetokDecoded(detokenizer.now(), start_ns, reply.step, reply.uids, reply.choices, ones)
            )
        self._send("detokenizer", "api", "api", "UserReply", reply.uids, 30 * n)
        if n:
            moments = np.full(n, api.now(), "<i8").tobytes()
            api.emit(events.HttpStreamed(api.now(), reply.uids, reply.choices, moments, ones))
        for end in reply.endings:
            counts = end.num_prompt_tokens, end.num_cached_tokens, end.num_generated_tokens
            api.emit(events.ReqEnded(api.now(), end.uid, end.choice, end.reason.value, 200, None, *counts))
            api.emit(events.HttpAnswered(api.now(), end.uid, 200, 100))
