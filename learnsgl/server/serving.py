"""From the moment the workers are ready until the last of them has ended: the HTTP server, its signals, its end.

`launch.py` runs `Serving.run`. It drains on the first signal, ends at once on the second, and ends with an error when
a worker dies or falls silent; in each case every client gets its answer or an error, and the workers are stopped in
order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from learnsgl.config import ServerConfig
from learnsgl.errors import EngineError, ServingError, WorkerLostError
from learnsgl.message.channel import AsyncRecvChannel
from learnsgl.message.types import ErrorInfo
from learnsgl.server.processes import Child, Processes, how_it_ended
from learnsgl.server.requests import SHUTTING_DOWN, RequestHub
from learnsgl.server.signals import STOP_SIGNALS
from learnsgl.server.watchdog import Fault, Watchdog
from learnsgl.server.worker import SHOW_STACKS
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder

FLUSH_S = 0.05
ANSWER_WAIT_S = 2.0
"""How long the last answers may take to reach their clients when the server ends."""
SETTLE_WAIT_S = 2.0
"""How long the scheduler may take to let go of requests that were ended early."""
STOP_WAIT_S = 5.0
"""How long the workers, all together, may take to end in order before they are killed."""
LEAST_WAIT_S = 0.5
"""What each still gets of that when those before it have used it up."""
STACKS_WAIT_S = 0.2
"""How long a stuck worker gets to write where it is into the log."""
LAST_WORDS_S = 0.5
"""How long the endings of a failed engine may take to get here before its death is told instead."""

_log = logging.getLogger(__name__)


class ApiServer(uvicorn.Server):
    """uvicorn without its own signal handling: `Serving` decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Serving:
    """A running server.

    Args:
        config: drain time and log level.
        app: the HTTP API.
        bound: its socket.
        hub: its requests.
        replies: where the workers' replies come in.
        processes: the workers.
        watchdog: hears the workers.
        recorder: the API process's part of the trace.
    """

    def __init__(
        self,
        config: ServerConfig,
        app: ASGIApp,
        bound: socket.socket,
        hub: RequestHub,
        replies: AsyncRecvChannel,
        processes: Processes,
        watchdog: Watchdog,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._bound = bound
        self._hub = hub
        self._replies = replies
        self._processes = processes
        self._watchdog = watchdog
        self._recorder = recorder
        self._api = ApiServer(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="debug" if config.log_level == "debug" else "warning",
                access_log=config.log_level == "debug",
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=int(ANSWER_WAIT_S),
            )
        )
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._fault = asyncio.Event()
        self._error: ServingError | None = None
        self._last_words = False

    async def run(self, on_serving: Callable[[], None]) -> None:
        """Serve until a signal or a fault ends it.

        Args:
            on_serving: called once, when the HTTP socket listens.

        Raises:
            WorkerLostError: a worker died, or was silent for too long.
            ServingError: a part of this process ended by itself.
        """
        tasks = [
            asyncio.create_task(self._api.serve(sockets=[self._bound]), name="the HTTP server"),
            asyncio.create_task(self._take_replies(), name="the receiver of replies"),
            asyncio.create_task(self._flush_trace(), name="the writer of the trace"),
            asyncio.create_task(self._watchdog.run(self._on_fault), name="the watchdog"),
        ]
        for task in tasks:
            task.add_done_callback(self._on_task_end)
        self._watch()
        try:
            await self._wait_serving(on_serving)
            await _first(self._stop_asked.wait(), self._fault.wait())
            await self._end_requests()
            tasks[0].remove_done_callback(self._on_task_end)
            self._api.should_exit = True
            await asyncio.wait([tasks[0]], timeout=ANSWER_WAIT_S + 1)
            await self._stop_workers()
            await asyncio.sleep(FLUSH_S)  # the last replies
        finally:
            for task in tasks:
                task.remove_done_callback(self._on_task_end)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._hub.trace.flush()
        if self._error is not None:
            raise self._error

    # ------------------------------------------------------------ while it serves

    async def _wait_serving(self, on_serving: Callable[[], None]) -> None:
        while not self._api.started and not self._fault.is_set():
            await asyncio.sleep(0.005)
        if self._fault.is_set():
            return
        if self._recorder.steps:
            host, port = self._bound.getsockname()[:2]
            self._recorder.emit(events.ProcessServing(self._recorder.now(), host, port))
            self._recorder.flush()
        gc.collect()
        gc.freeze()  # what was made until now stays: collections needn't look at it, and hold up the loop for less
        on_serving()

    async def _take_replies(self) -> None:
        while True:
            self._hub.on_messages(await self._replies.receive())

    async def _flush_trace(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._hub.trace.flush()
            self._recorder.flush_if_due()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        for child in self._processes.children:
            loop.add_reader(child.sentinel, self._on_child_end, child)

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            self._hurry.set()
        self._stop_asked.set()

    def _on_fault(self, name: str, fault: Fault, limit_s: float) -> None:
        """A worker won't answer any more: end it, and then all of it is as if it had died."""
        (child,) = [child for child in self._processes.children if child.name == name]
        if fault is Fault.SILENT:
            self._end_child(child, f"gave no sign of life for {limit_s:g} s and was killed")
            return
        _log.error("%s (process %d) has been busy with one thing for %g s; its threads:", name, child.pid, limit_s)
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(child.pid, SHOW_STACKS)
        words = f"was stuck, busy with one thing for {limit_s:g} s, and was killed"
        asyncio.get_running_loop().call_later(STACKS_WAIT_S, self._end_child, child, words)

    def _end_child(self, child: Child, how: str) -> None:
        if not child.end_recorded:
            child.process.kill()
            self._on_child_end(child, how)

    def _on_child_end(self, child: Child, how: str | None = None) -> None:
        asyncio.get_running_loop().remove_reader(child.sentinel)
        child.process.join(1)
        self._processes.record_exit(child, asked=False)
        self._last_words = child.process.exitcode == EngineError.exit_code
        how = how or how_it_ended(child)
        _log.error("%s (process %d) %s; the server ends", child.name, child.pid, how)
        self._fail(WorkerLostError(f"{child.name} (process {child.pid}) {how}; the server has ended"))

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        _log.error("%s ended by itself", task.get_name(), exc_info=error)
        self._fail(ServingError(f"{task.get_name()} ended by itself: {error}"))

    def _fail(self, error: ServingError) -> None:
        self._error = self._error or error
        self._fault.set()

    # ------------------------------------------------------------ its end

    async def _end_requests(self) -> None:
        """Let the running requests finish, as far as that is possible, and end the others with an error."""
        hub = self._hub
        if self._recorder.steps:
            reason = "signal" if self._error is None else "worker_lost" if self._is_worker_lost else "error"
            self._recorder.emit(events.ProcessStopping(self._recorder.now(), reason, hub.num_running))
        if self._error is None:
            hub.refuse_new(SHUTTING_DOWN)
            if hub.num_running:
                _log.info("waiting for %d requests to end; a second signal ends them at once", hub.num_running)
            await _first(
                hub.wait_idle(), self._hurry.wait(), self._fault.wait(), timeout_s=self._config.drain_timeout_s
            )
        if self._error is None:
            hub.end_all(SHUTTING_DOWN)
            await _first(hub.wait_settled(), self._fault.wait(), timeout_s=SETTLE_WAIT_S)
            return
        code = "worker_lost" if self._is_worker_lost else "internal_error"
        info = ErrorInfo(f"the server broke: {self._error}", 503, code)
        hub.refuse_new(info)
        if self._last_words:
            await _first(hub.wait_idle(), timeout_s=LAST_WORDS_S)
        hub.end_all(info)

    @property
    def _is_worker_lost(self) -> bool:
        return isinstance(self._error, WorkerLostError)

    async def _stop_workers(self) -> None:
        """Stop the workers in the order of a request's way, so that each still hears the one before it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_WAIT_S
        for child in self._processes.children:
            loop.remove_reader(child.sentinel)
        for role in ("tokenizer", "scheduler", "detokenizer"):
            group = [child for child in self._processes.children if child.role == role and child.process.is_alive()]
            for child in group:
                child.say_stop()
            await asyncio.gather(*(self._wait_end(child, deadline) for child in group))

    async def _wait_end(self, child: Child, deadline: float) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        wait_s = max(LEAST_WAIT_S, deadline - loop.time())
        loop.add_reader(child.sentinel, ended.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), wait_s)
        loop.remove_reader(child.sentinel)
        if not ended.is_set():
            _log.warning("%s did not end within %.1f s and is killed", child.name, wait_s)
            child.process.kill()
        child.process.join(1)
        self._processes.record_exit(child, asked=True)


async def _first(*waits: Coroutine[Any, Any, object], timeout_s: float | None = None) -> None:
    """Wait for the first of these, for at most so long."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
