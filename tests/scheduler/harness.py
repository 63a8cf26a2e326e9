"""Drives a scheduler on the fake executor and checks, after every iteration, all that must always hold."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np

from learnsgl.config import SchedulerConfig
from learnsgl.core import FinishReason, ReqKey, SamplingParams, Stage
from learnsgl.message.types import AbortMsg, CallReply, DetokenizeMsg, Ending, UserMsg
from learnsgl.scheduler.grammar import Grammars
from learnsgl.scheduler.live_state import LiveState
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.trace import events
from learnsgl.trace.digest import RowField
from learnsgl.trace.fold import Fold
from learnsgl.trace.recorder import MemoryRecorder
from learnsgl.trace.state import digest_of
from tests.fakes import FakeExecutor


class Harness:
    """A scheduler, its trace, and what its clients have seen.

    Attributes:
        outputs: token ids that each request got, its first choice where it has several.
        endings: how each request ended, likewise; checked to be exactly one.
        choice_outputs, choice_endings: the same for every choice.
        logprobs: the tokens whose log-probabilities came, and these; prompt_logprobs: those of prompts.
    """

    def __init__(
        self, *, num_pages: int = 64, page_size: int = 1, max_model_len: int = 64, num_rows: int = 8,
        make_executor: type[FakeExecutor] = FakeExecutor, grammars: Grammars | None = None, **options: object,
    ) -> None:  # fmt: skip
        self.executor = make_executor(num_pages, page_size, max_model_len, num_rows)
        self.recorder = MemoryRecorder()
        self._ticks = itertools.count(1)
        config = SchedulerConfig(max_running_requests=num_rows, **options)  # type: ignore[arg-type]
        self.recorder.emit(events.TraceBegin(0, "full", False))
        self.recorder.emit(
            events.EngineReady(0, "fake", "fake", "none", num_pages, page_size, max_model_len, num_rows, {})
        )
        self.scheduler = Scheduler(
            config, self.executor, self.recorder, clock=lambda: next(self._ticks), run_key=b"key", grammars=grammars
        )
        self.fold = Fold()
        self._num_folded = 0
        self.prompts: dict[int, list[int]] = {}
        self.sampling: dict[int, SamplingParams] = {}
        self.outputs: dict[int, list[int]] = {}
        self.endings: dict[int, Ending] = {}
        self.choice_outputs: dict[ReqKey, list[int]] = {}
        self.choice_endings: dict[ReqKey, Ending] = {}
        self.logprobs: dict[ReqKey, list[tuple[int, float]]] = {}
        self.prompt_logprobs: dict[ReqKey, list[float]] = {}
        self.call_replies: list[CallReply] = []
        self._uids = itertools.count(1)

    # ------------------------------------------------------------ what clients do

    def send(self, prompt: list[int], max_tokens: int | None = None, **sampling_params: Any) -> int:
        uid = next(self._uids)
        self.prompts[uid] = prompt
        sampling = SamplingParams(max_tokens=max_tokens, **sampling_params)
        self.sampling[uid] = sampling
        self.scheduler.receive([UserMsg(uid, np.array(prompt, dtype=np.int32).tobytes(), sampling)])
        return uid

    def abort(self, uid: int, *, stop_after: int | None = None) -> None:
        reason = FinishReason.ABORT if stop_after is None else FinishReason.STOP
        self.scheduler.receive([AbortMsg(uid, None, reason, stop_after)])

    def step(self) -> None:
        reply = self.scheduler.step()
        if reply is not None:
            self._deliver(msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=DetokenizeMsg))
        self.check()

    def run(self, limit: int = 10_000) -> None:
        """Step until nothing is left to do."""
        for _ in range(limit):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, "requests are stuck"
        self.scheduler.close()
        self._fold_new_events()
        self.fold.finish()

    def _deliver(self, reply: DetokenizeMsg) -> None:
        for accepted in reply.accepted:
            for choice in range(accepted.sampling.n):
                key = ReqKey(accepted.uid, choice)
                assert key not in self.choice_outputs
                self.choice_outputs[key] = []
            self.outputs[accepted.uid] = self.choice_outputs[ReqKey(accepted.uid)]
        uids, choices = np.frombuffer(reply.uids, "<i8"), np.frombuffer(reply.choices, "<i4")
        tokens = np.frombuffer(reply.token_ids, "<i4")
        for uid, choice, token in zip(uids.tolist(), choices.tolist(), tokens.tolist(), strict=True):
            key = ReqKey(uid, choice)
            assert key not in self.choice_endings, "a token after the ending"
            self.choice_outputs[key].append(token)
        self.call_replies += reply.replies
        if reply.logprobs is not None:
            values = np.frombuffer(reply.logprobs.logprobs, "<f4").tolist()
            for place, value in zip(np.frombuffer(reply.logprobs.places, "<i4").tolist(), values, strict=True):
                key = ReqKey(int(uids[place]), int(choices[place]))
                self.logprobs.setdefault(key, []).append((int(tokens[place]), value))
        for part in reply.prompt_logprobs:
            key = ReqKey(part.uid, part.choice)
            self.prompt_logprobs.setdefault(key, []).extend(np.frombuffer(part.values.logprobs, "<f4").tolist())
        for ending in reply.endings:
            key = ReqKey(ending.uid, ending.choice)
            assert key not in self.choice_endings, "two endings"
            self.choice_endings[key] = ending
            if key.choice == 0:
                self.endings[key.uid] = ending

    # ------------------------------------------------------------ what must always hold

    def check(self) -> None:
        self._check_pages()
        self._check_promises()
        self._check_tree()
        self._fold_new_events()
        live = LiveState(self.scheduler)
        assert digest_of(live) == self.scheduler.journal.value == digest_of(self.fold.state)

    def _fold_new_events(self) -> None:
        for event in self.recorder.events[self._num_folded :]:
            self.fold.apply(event)
        self._num_folded = len(self.recorder.events)

    def _check_pages(self) -> None:
        running = self.scheduler.running
        held = np.zeros(running.allocator.num_pages, dtype=np.int64)
        for row in running.table.used_rows().tolist():
            pages = running.table.pages_of(row)
            assert len(set(pages.tolist())) == len(pages)
            held[pages] += 1
        for node in running.cache.node_ids():
            held[running.cache.facts(node).pages] += 1
        assert (held == running.allocator.refs).all()
        free = running.allocator.free_pages()
        assert sorted(free.tolist()) == np.flatnonzero(held == 0).tolist()

    def _check_promises(self) -> None:
        running = self.scheduler.running
        columns = running.table.columns
        promised = 0
        for row in running.unfinished_rows().tolist():
            promised += running.pages_to_end(running.table.req(row)) - int(columns[RowField.NUM_PAGES, row])
            assert columns[RowField.COMMITTED_LEN, row] <= columns[RowField.SCHEDULED_LEN, row]
            assert columns[RowField.SCHEDULED_LEN, row] < columns[RowField.LIMIT_LEN, row]
        assert promised == running.num_promised
        assert promised <= running.allocator.num_free + running.cache.num_evictable

    def _check_tree(self) -> None:
        running = self.scheduler.running
        nodes = {node: running.cache.facts(node) for node in running.cache.node_ids()}
        locks = dict.fromkeys(nodes, 0)
        for row in running.table.used_rows().tolist():
            node = int(running.table.columns[RowField.NODE, row])
            while node != 0:
                locks[node] += 1
                node = nodes[node].parent
        assert locks == {node: facts.lock for node, facts in nodes.items()}
        unlocked = sum(len(facts.pages) for facts in nodes.values() if facts.lock == 0)
        assert unlocked == running.cache.num_evictable

    # ------------------------------------------------------------ reading the trace

    def events_of(self, kind: type[events.Event]) -> list[events.Event]:
        return [event for event in self.recorder.events if isinstance(event, kind)]

    def stage_of(self, uid: int) -> Stage | None:
        row = next((row for key, row in self.scheduler.running.rows.items() if key.uid == uid), None)
        return None if row is None else Stage(int(self.scheduler.running.table.stage[row]))
