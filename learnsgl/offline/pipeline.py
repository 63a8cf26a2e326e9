"""The server's jobs in one process: tokenizer, scheduler and detokenizer, which hand their messages over in memory.

`llm.py` submits requests and turns the loop while somebody waits for them. The jobs are the server's own classes, so
an answer, a stop string and a trace are the same here and there. It keeps the API server's part of the trace, too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from learnsgl.config import SchedulerConfig
from learnsgl.core import FinishReason, ReqKey, SamplingParams
from learnsgl.errors import EngineError, ServingError
from learnsgl.message.types import AbortMsg, Delta, DetokenizeMsg, ErrorInfo, Message, TokenizeMsg, UserReply
from learnsgl.offline.interrupts import uninterrupted
from learnsgl.offline.live import Call, LiveCompletion
from learnsgl.offline.prompts import PromptContent
from learnsgl.offline.recording import Recording
from learnsgl.scheduler.executor import Executor, ExecutorInfo
from learnsgl.scheduler.grammar import Grammars
from learnsgl.scheduler.io import for_scheduler
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.server.http_trace import HttpTrace
from learnsgl.tokenizer.detokenizer_worker import DetokenizerWorker
from learnsgl.tokenizer.tokenize import Tokenizer
from learnsgl.tokenizer.tokenizer_worker import TokenizerWorker

ABANDONED_STATUS = 499
"""Status in the trace of a request whose caller wanted no more of it, as for a client that went away."""


class Handoff:
    """Messages on their way from one job to another (`Sender`)."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def __len__(self) -> int:
        return len(self._messages)

    def send(self, messages: Sequence[Message]) -> None:
        """Add messages at the end."""
        self._messages += messages

    def take(self) -> list[Message]:
        """All that were sent since the last time."""
        taken, self._messages = self._messages, []
        return taken


class Pipeline:
    """Every job of the server, turned by whoever waits for an answer.

    Several calls may be under way at once, also in several threads: each turn serves them all.

    Args:
        config: which requests run, and in what order.
        executor: runs the model; it is closed with the pipeline.
        tokenizer: the model's tokenizer.
        recording: the trace; it is closed with the pipeline.
        grammars: compiles the grammars of requests.
    """

    def __init__(
        self, config: SchedulerConfig, executor: Executor, tokenizer: Tokenizer, recording: Recording,
        grammars: Grammars,
    ) -> None:  # fmt: skip
        recorder = recording.recorder
        self._executor = executor
        self._recording = recording
        self._trace = HttpTrace(recorder)
        self._to_scheduler, self._replies = Handoff(), Handoff()
        self._tokenizer = TokenizerWorker(tokenizer, recorder, to_scheduler=self._to_scheduler, to_api=self._replies)
        self._detokenizer = DetokenizerWorker(
            tokenizer, recorder, to_api=self._replies, to_scheduler=self._to_scheduler
        )
        self._scheduler = Scheduler(config, executor, recorder, run_key=recording.run_key, grammars=grammars)
        self._live: dict[ReqKey, LiveCompletion] = {}
        self._last_uid = 0
        self._lock = threading.Lock()
        self._closed = False
        self._failure: Exception | None = None

    @property
    def info(self) -> ExecutorInfo:
        """Device and sizes."""
        return self._executor.info

    @property
    def trace_folder(self) -> Path | None:
        """Folder of the recording; `None` where nothing is recorded."""
        return self._recording.folder

    @property
    def num_running(self) -> int:
        """Answers that have not ended."""
        return len(self._live)

    def submit(self, call: Call, content: PromptContent, sampling: SamplingParams, *, streamed: bool) -> None:
        """Hand a request in, for `call`, which gets a `LiveCompletion` for each of its choices.

        Raises:
            ServingError: the pipeline is closed, or has failed.
        """
        with uninterrupted(), self._lock:
            self._check_usable()
            self._last_uid += 1
            now = self._recording.recorder.now()
            uid = self._last_uid
            for choice in range(sampling.n):
                live = LiveCompletion(ReqKey(uid, choice), sampling.n, call.num_prompts, call, streamed, now)
                self._live[live.key] = live
                call.lives.append(live)
            call.num_prompts += 1
            self._trace.received(uid, call.route, streamed, 0, sampling.n)
            self._tokenizer.process_one_msg(
                TokenizeMsg(uid, sampling, content.text, content.input_ids, content.messages)
            )
            self._tokenizer.flush()

    def turn(self) -> None:
        """One iteration of the scheduler's loop, and the text of what it gave.

        Raises:
            EngineError: the engine failed; every request has got its ending before this is raised.
            ServingError: the pipeline is closed, or has failed before.
        """
        with uninterrupted(), self._lock:
            self._check_usable()
            self._turn()

    @contextlib.contextmanager
    def waiting(self, call: Call) -> Iterator[None]:
        """In here somebody waits for a call; whatever ends that, none of the call's requests runs on unheard."""
        try:
            yield
        except GeneratorExit:  # perhaps a garbage collection, in the middle of a turn: the next turn sees to it
            self._abandon(call.lives)
            raise
        except BaseException:
            self._abandon(call.lives)
            self._settle()
            raise
        self._rest()

    def _abandon(self, lives: Iterable[LiveCompletion]) -> None:
        """Their caller wants no more of these requests: the next turn aborts those that have not ended."""
        for live in lives:
            if not live.has_ended and not live.abandoned:
                live.abandoned = True
                self._to_scheduler.send([AbortMsg(*live.key)])

    def _settle(self) -> None:
        """Turn until no abandoned request runs."""
        with uninterrupted(), self._lock:
            while self._is_usable and any(live.abandoned for live in self._live.values()):
                self._turn()
            self._recording.recorder.flush()

    def _rest(self) -> None:
        """The last to wait has got all: write what is pending in the trace."""
        with uninterrupted(), self._lock:
            if not self._live:
                self._recording.recorder.flush()

    def close(self) -> None:
        """Abort what still runs, close the executor and the trace; safe to call twice."""
        was_closed, self._closed = self._closed, True  # ahead of the lock: a thread that generates lets go of it
        if was_closed:
            return
        with uninterrupted(), self._lock:
            in_order = False
            try:
                if self._failure is None:
                    self._end_all()
                    in_order = True
            finally:
                self._executor.close()
                self._recording.close(in_order=in_order, error=self._failure)

    @property
    def _is_usable(self) -> bool:
        return self._failure is None and not self._closed

    def check_failure(self) -> None:
        """Raise when nothing more can run.

        Raises:
            EngineError: the engine has failed.
        """
        if self._failure is not None:
            raise EngineError(f"the engine has failed before ({self._failure}); make a new LLM") from self._failure

    def _check_usable(self) -> None:
        self.check_failure()
        if self._closed:
            raise ServingError("this LLM is closed; make a new one")

    def _turn(self) -> None:
        try:
            self._receive_and_step()
        except Exception as error:
            self._failure = error
            if isinstance(error, EngineError):
                info = ErrorInfo(f"the engine failed: {error}", 500, "engine_error")
                self._detokenize(self._scheduler.fail_all(info))
            raise
        finally:
            self._trace.flush()
            self._recording.recorder.flush_if_due()

    def _receive_and_step(self) -> None:
        self._scheduler.receive(for_scheduler(self._to_scheduler.take()))
        reply = self._scheduler.step()
        if reply is None:
            self._deliver()  # of a prompt that couldn't be tokenized
        else:
            self._detokenize(reply)

    def _detokenize(self, reply: DetokenizeMsg) -> None:
        arrays = ((reply.uids, "<i8"), (reply.choices, "<i4"), (reply.token_ids, "<i4"))
        for uid, choice, token_id in zip(*(np.frombuffer(*array).tolist() for array in arrays), strict=True):
            self._live[ReqKey(uid, choice)].add_token(token_id)
        self._detokenizer.process_one_msg(reply)
        self._detokenizer.flush()
        self._deliver()

    def _deliver(self) -> None:
        now = self._recording.recorder.now()
        for message in self._replies.take():
            if isinstance(message, UserReply):
                for delta in message.deltas:
                    self._deliver_one(self._live[ReqKey(delta.uid, delta.choice)], delta, now)

    def _deliver_one(self, live: LiveCompletion, delta: Delta, now_ns: int) -> None:
        live.add(delta, now_ns)
        if delta.text and live.streamed:
            self._trace.streamed(live.key, len(delta.text.encode()))
        ending = delta.ending
        if ending is None:
            return
        del self._live[live.key]
        if live.abandoned:
            self._trace.ended(ending, FinishReason.ABORT, ABANDONED_STATUS, "abandoned")
            return
        error = ending.error
        status, code = (200, None) if error is None else (error.status, error.code)
        self._trace.ended(ending, ending.reason, status, code)
        if not any(ReqKey(live.key.uid, choice) in self._live for choice in range(live.num_choices)):
            self._trace.answered(live.key.uid, status, 0)

    def _end_all(self) -> None:
        """Abort every request, and collect what the executor still works on."""
        self._abandon(list(self._live.values()))
        while self._scheduler.has_work or self._to_scheduler or self._replies:
            self._turn()
        self._scheduler.close()
