"""The scheduler: decides which tokens run in each step, keeps the executor busy, and takes its results over.

One iteration of the loop, with overlap:

    receive messages → schedule step N+1 → submit it → collect step N → commit its tokens → reply

A step with constrained requests is sampled after the commit: only then is known which of its tokens are allowed.

`scheduler/worker.py` drives it in its own process; tests, benchmarks and the simulator drive it directly. It is pure
Python and numpy over numbers, on a clock that is passed in: the same messages at the same iterations give the same
decisions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from learnsgl.config import SchedulerConfig
from learnsgl.core import FinishReason, Int32Array, Req, ReqKey, Stage
from learnsgl.errors import RequestError
from learnsgl.kvcache.allocator import PageAllocator
from learnsgl.kvcache.base import PrefixCache
from learnsgl.kvcache.naive import NaiveCache
from learnsgl.kvcache.radix import RadixCache
from learnsgl.message.types import (
    AbortMsg,
    Accepted,
    CallReply,
    DetokenizeMsg,
    Ending,
    ErrorInfo,
    FlushCacheMsg,
    SchedulerStats,
    UserMsg,
)
from learnsgl.scheduler import replies
from learnsgl.scheduler.decode import decodable_rows
from learnsgl.scheduler.executor import Executor, Step, StepResult
from learnsgl.scheduler.grammar_matcher import advance
from learnsgl.scheduler.in_flight import InFlight, awaits_tokens, masks_of
from learnsgl.scheduler.intake import check_request, start_matchers
from learnsgl.scheduler.live_state import LiveState
from learnsgl.scheduler.policy import make_policy
from learnsgl.scheduler.prefill import Admitted, PrefillManager, Run
from learnsgl.scheduler.running import RunningReqs
from learnsgl.scheduler.table import BoolArray, Int64Array, ReqTable
from learnsgl.trace.journal import Journal, as_bytes
from learnsgl.trace.keyframe import KeyframeWriter
from learnsgl.trace.recorder import Recorder

if TYPE_CHECKING:
    from learnsgl.scheduler.grammar import Grammars


class Scheduler:
    """Schedules requests onto an executor.

    Invariants, each checked by a property test: pages are conserved; what is promised is never more than what is
    free or evictable; every queued request ends exactly once; a row is given back only when no step holds it.
    """

    def __init__(
        self, config: SchedulerConfig, executor: Executor, recorder: Recorder, *,
        clock: Callable[[], int] = time.monotonic_ns, run_key: bytes = b"", grammars: Grammars | None = None,
    ) -> None:  # fmt: skip
        """Schedule onto `executor`; `run_key` keys digests of content in the trace and is never written.

        `grammars` compiles the grammars of requests; without it those are refused.
        """
        info = executor.info.under(config)
        self._config = config
        self._max_prefill_length = info.max_prefill_length
        self._executor = executor
        self._clock = clock
        self._grammars = grammars
        self.journal = Journal(recorder, clock, run_key)
        self._policy = make_policy(config)
        self._is_eos: BoolArray = np.isin(np.arange(info.vocab_size), info.eos_ids)
        allocator = PageAllocator(info.num_pages)
        table = ReqTable(info.max_running_requests, info.max_model_len, info.page_size)
        self.running = RunningReqs(table, allocator, self._make_cache(info.page_size, allocator), self.journal)
        self.prefill = PrefillManager(self.running, self.journal, config.prefix_wait_tokens)
        self.step_number = 0
        self._num_waited = 0
        """Steps in a row in which running answers waited for prompts."""
        self._num_arrived = 0
        self._in_flight: deque[InFlight] = deque()
        self._unsampled: InFlight | None = None
        self._outbox = DetokenizeMsg()
        self._num_generated = 0
        self._told = SchedulerStats()
        self._is_idle = True
        self._keyframes = KeyframeWriter(LiveState(self), recorder, clock)

    def _make_cache(self, page_size: int, allocator: PageAllocator) -> PrefixCache:
        if self._config.cache_type == "naive":
            return NaiveCache()
        return RadixCache(page_size, allocator, self.journal)

    # ------------------------------------------------------------ messages in

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to schedule or to collect, or a reply to give."""
        return bool(self.prefill.queue or self.running.rows or self._in_flight or self._has_reply)

    @property
    def num_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self.prefill.queue) + len(self.running.unfinished_rows())

    def receive(self, messages: Sequence[UserMsg | AbortMsg | FlushCacheMsg]) -> None:
        """Take messages over, in their order."""
        for message in messages:
            if isinstance(message, AbortMsg):
                self._abort(message)
            elif isinstance(message, FlushCacheMsg):
                self._flush_cache(message)
            else:
                self._enqueue(message)

    def _enqueue(self, message: UserMsg) -> None:
        """Put each choice of a request at the end of the queue, or refuse them all."""
        prompt: Int32Array = np.frombuffer(message.input_ids, dtype="<i4").astype(np.int32)
        sampling, info = message.sampling, self._executor.info
        keys = [ReqKey(message.uid, choice) for choice in range(sampling.n)]
        try:
            if any(key in self.prefill.queue or key in self.running.rows for key in keys):
                raise RequestError(
                    f"request id {message.uid} is in use; ids are never used twice", code="invalid_request_id"
                )
            check_request(prompt, sampling, info)
            matchers = start_matchers(message, self._grammars, self.journal)
        except RequestError as error:
            self._refuse(keys, len(prompt), error)
            return
        limit_len = info.max_model_len
        if sampling.max_tokens is not None:
            limit_len = min(len(prompt) + sampling.max_tokens, limit_len)
        digest = self.journal.content_digest(prompt) if self.journal.full else None
        for key, matcher in zip(keys, matchers, strict=True):
            req = Req(key, prompt, sampling, limit_len, order=self._num_arrived, matcher=matcher)
            self._num_arrived += 1
            self.prefill.queue[key] = req
            self.journal.queued(key, req.order, req.prompt_len, limit_len, digest)
        is_wanted = message.wants_prompt or sampling.prompt_logprobs is not None
        prompt_ids = message.input_ids if is_wanted else b""
        if sampling.grammar is not None:  # it may be long, and nobody behind the scheduler reads it
            sampling = msgspec.structs.replace(sampling, grammar=None)
        self._outbox.accepted.append(Accepted(message.uid, len(prompt), sampling, prompt_ids))

    def _refuse(self, keys: Sequence[ReqKey], prompt_len: int, error: RequestError) -> None:
        info = ErrorInfo(str(error), error.status, error.code, error.param)
        for key in keys:
            self.journal.refused(*key, error.code, prompt_len)
            self._outbox.endings.append(Ending(*key, FinishReason.ERROR, prompt_len, error=info))

    def _abort(self, message: AbortMsg) -> None:
        """End a request, or every choice of it, wherever it stands. One that has ended already is left alone."""
        waiting = [key for key in self.prefill.queue if _is_meant(message, key)]
        stages = self.running.table.stage
        running = [
            row for key, row in self.running.rows.items() if _is_meant(message, key) and stages[row] != Stage.FINISHED
        ]
        self.journal.aborting(
            message.uid, message.choice, message.reason.value, message.num_kept_tokens, bool(waiting or running)
        )
        for key in waiting:
            self._finish_waiting(key, message.reason)
        rows = np.array(running, dtype=np.int64)
        self._outbox.endings += self.running.finish(
            self.step_number, rows, [message.reason] * len(rows), num_kept=message.num_kept_tokens
        )
        self.running.release(self.step_number, rows)

    def _flush_cache(self, message: FlushCacheMsg) -> None:
        """Forget every cached prefix, where no request holds any."""
        num_busy = len(self.running.rows) + len(self.prefill.queue)
        if num_busy:
            text = f"{num_busy} requests have not ended, and hold pages of the cache; flush it when none runs"
            self._outbox.replies.append(CallReply(message.call, error=ErrorInfo(text, 400, "server_busy")))
            return
        num_pages = self.running.cache.num_evictable
        self.running.cache.evict(num_pages)
        self._outbox.replies.append(CallReply(message.call, num_pages=num_pages))

    def _finish_waiting(self, key: ReqKey, reason: FinishReason, error: ErrorInfo | None = None) -> None:
        """End a request that is still in the queue."""
        req = self.prefill.queue.pop(key)
        self.journal.finished_waiting(key, req.order, req.prompt_len, req.limit_len, reason.value, self.step_number)
        self._outbox.endings.append(Ending(*key, reason, req.prompt_len, error=error))

    def fail_all(self, error: ErrorInfo) -> DetokenizeMsg:
        """End every request because the executor can't go on. Nothing is released: the pages are lost with it."""
        for key in list(self.prefill.queue):
            self._finish_waiting(key, FinishReason.ERROR, error)
        rows = self.running.unfinished_rows()
        reasons = [FinishReason.ERROR] * len(rows)
        self._outbox.endings += self.running.finish(self.step_number, rows, reasons, error=error)
        return self._take_reply() or DetokenizeMsg()

    def after_trace_change(self) -> None:
        """A recording has begun, and needs the whole state first; or one has ended."""
        self.journal.follow(LiveState(self))
        self._keyframes.begin()

    def close(self) -> None:
        """Write a last keyframe, so that the trace proves the final state."""
        self._keyframes.write_whole()

    # ------------------------------------------------------------ one iteration

    def step(self) -> DetokenizeMsg | None:
        """Schedule and submit the next step, collect the one before it, and take its tokens over.

        Returns:
            What the detokenizer is to be told, or `None` when there is nothing.

        Raises:
            EngineError: the executor failed; `fail_all` ends the requests.
        """
        submitted = self._schedule_and_submit()
        if self._in_flight and (not self._config.overlap or not submitted or len(self._in_flight) > 1):
            self._collect_and_commit()
        if self._unsampled is not None:
            self._sample(self._unsampled)
        self._keyframes.after_iteration()
        if not self._is_idle and not self.running.rows and not self.prefill.queue:
            self._is_idle = True
            self.journal.idle()
        return self._take_reply()

    @property
    def _has_reply(self) -> bool:
        outbox = self._outbox
        return bool(outbox.uids or outbox.accepted or outbox.endings or outbox.prompt_logprobs or outbox.replies)

    def _take_reply(self) -> DetokenizeMsg | None:
        told = self._told
        has_become_idle = self._is_idle and bool(told.num_running or told.num_waiting)
        if not self._has_reply and not has_become_idle:
            return None
        reply, self._outbox = self._outbox, DetokenizeMsg(step=self.step_number)
        reply.stats = self._told = self._stats()
        return reply

    def _stats(self) -> SchedulerStats:
        running, prefill = self.running, self.prefill
        return SchedulerStats(
            self.step_number, len(running.rows), len(prefill.queue), running.allocator.num_free,
            running.cache.num_evictable, prefill.num_prompt_tokens, prefill.num_cached_tokens, self._num_generated,
        )  # fmt: skip

    def _schedule_and_submit(self) -> bool:
        """Put the next step together and hand it to the executor; false when nothing can run."""
        start_ns = self._clock()
        number = self.step_number + 1
        decodable = decodable_rows(self.running.table)
        division = self._policy.divide(self._max_prefill_length, len(decodable), self._num_waited)
        prompts, admitted = self.prefill.schedule(number, division.prefill_tokens)
        must_wait = bool(prompts) and not division.decode_beside_prefill
        self._num_waited = self._num_waited + 1 if must_wait and len(decodable) else 0
        if must_wait:
            decodable = decodable[:0]
        if not prompts and not len(decodable):
            return False
        self.step_number = number
        self._is_idle = False
        self._submit(start_ns, prompts, admitted, decodable)
        return True

    def _submit(self, start_ns: int, prompts: list[Run], admitted: Admitted, decodable: Int64Array) -> None:
        table = self.running.table
        rows, lens = decodable, np.ones_like(decodable)
        if prompts:
            rows = np.concatenate([[run.row for run in prompts], rows])
            lens = np.concatenate([[run.length for run in prompts], lens])
        uids, choices, starts = table.uid[rows], table.choice[rows], table.scheduled_len[rows]
        stops = starts + lens
        counts, pages = self.running.grow(self.step_number, rows, stops)
        table.scheduled_len[rows] = stops
        table.num_in_flight[rows] += 1
        prompt_done = stops >= table.prompt_len[rows]
        stages = np.where(prompt_done, Stage.DECODE.value, Stage.PREFILL.value)
        stage_deltas = stages - table.stage[rows]
        table.stage[rows] = stages
        self.journal.stepped(
            self.step_number, start_ns, uids, choices, rows, starts, lens,
            stage_deltas, len(prompts), len(self.prefill.queue), self.running.allocator.num_free,
        )  # fmt: skip
        submit_ns = self._clock()
        step = Step(
            self.step_number, admitted.for_executor(), _int32(rows), _int32(starts), _int32(lens), _int32(prompt_done),
            _int32(counts), pages, _int32(self.running.released_rows),
            table.num_prompt_logits(rows, starts, stops) if prompts else None,
        )  # fmt: skip
        self.running.released_rows = []
        ticket = self._executor.submit(step)
        in_flight = InFlight(ticket, rows, uids, choices, lens, prompt_done, len(prompts))
        self._in_flight.append(in_flight)
        if awaits_tokens(in_flight, table):
            self._unsampled = in_flight
        else:
            self._sample(in_flight)
        self.journal.submitted(self.step_number, submit_ns)

    def _sample(self, step: InFlight) -> None:
        """Queue the sampling of a step, under the masks of its constrained requests."""
        self._unsampled = None
        masks, endings = masks_of(step, self.running, self.journal, self._clock)
        self._outbox.endings += endings
        self._executor.sample(step.ticket, masks)

    # ------------------------------------------------------------ results

    def _collect_and_commit(self) -> None:
        """Wait for the oldest step in flight, and take its tokens over."""
        start_ns = self._clock()
        step = self._in_flight[0]
        result = self._executor.collect(step.ticket)
        self._in_flight.popleft()
        for anchor in result.anchors:
            self.journal.anchored(
                anchor.host_ns, anchor.uncertainty_ns, anchor.rate_ppb, anchor.rate_uncertainty_ppb
            )  # fmt: skip
        self.journal.collected(
            result.number, start_ns, (result.forward_start_ns, result.forward_end_ns),
            (result.sample_start_ns, result.sample_end_ns), launch_ns=result.launch_ns,
            uncertainty_ns=result.uncertainty_ns, graph_size=result.graph_size,
        )  # fmt: skip
        self._commit(step, result)

    def _commit(self, step: InFlight, result: StepResult) -> None:
        start_ns = self._clock()
        table, rows = self.running.table, step.rows
        kept = step.wants_token & ~table.has_ended(rows)
        tokens = np.zeros(len(rows), dtype=np.int32)
        tokens[step.wants_token] = result.tokens
        tokens, got = tokens[kept], rows[kept]
        positions = table.prompt_len[got] + table.num_output[got]
        table.token_ids[got, positions] = tokens
        table.committed_len[rows] += step.lens
        table.num_output[got] += 1
        self._num_generated += len(got)
        table.num_in_flight[rows] -= 1
        self.journal.committed(result.number, start_ns, step.uids, step.choices, rows, step.lens, kept.astype(np.int64))
        is_end = table.ends_with(got, tokens, self._is_eos[tokens])
        self._outbox.step = result.number
        self._outbox.uids = as_bytes(step.uids[kept], "i8")
        self._outbox.choices = as_bytes(step.choices[kept], "i4")
        self._outbox.token_ids = as_bytes(tokens, "i4")
        self._outbox.hidden = is_end.astype(np.uint8).tobytes() if is_end.any() else b""
        if result.logprobs is not None:
            self._outbox.logprobs = replies.of_tokens(result, kept[step.wants_token])
        if result.prompt_logprobs:
            self._outbox.prompt_logprobs = replies.of_prompts(result, table)
        self.running.remember_prompts(rows[: step.num_prefill])
        ended = is_end | (positions + 1 >= table.limit_len[got])
        reasons = [FinishReason.STOP if end else FinishReason.LENGTH for end in is_end[ended]]
        endings = self.running.finish(result.number, got[ended], reasons)
        for ending, token in zip(endings, tokens[ended].tolist(), strict=True):
            ending.matched = token if ending.reason is FinishReason.STOP else None
        self._outbox.endings += endings
        if table.num_with_grammar:
            goes_on = ~ended & table.has_grammar[got]
            advance([table.req(row) for row in got[goes_on].tolist()], tokens[goes_on].tolist())
        self.running.release(result.number, rows)


def _is_meant(message: AbortMsg, key: ReqKey) -> bool:
    return key.uid == message.uid and message.choice in (None, key.choice)


def _int32(values: npt.ArrayLike) -> Int32Array:
    return np.asarray(values, dtype=np.int32)
