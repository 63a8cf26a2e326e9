"""The child processes: starting them, waiting until they are ready, and ending them.

`launch.py` makes one `Processes` for a server. A child is told to stop through its control pipe; one that doesn't
listen is killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from learnsgl import errors
from learnsgl.errors import LearnsglError, RequestError, StartupError
from learnsgl.message.mailbox import STOP_WORD
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.server import signals
from learnsgl.server.worker import Ack, WorkerSetup, run_worker
from learnsgl.tokenizer.tool_forms import CallForm
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder

_POLL_S = 0.2
"""How often a start-up looks for children that died without a word."""

_STOP_WAIT_S = 2.0
"""How long workers may take to end in order when a start has failed."""

_KILL_WAIT_S = 5.0


@dataclass
class Child:
    """A child process and the pipes to it: `control` for words to it, `pulse` with its beats (see `watchdog.py`)."""

    name: str
    role: str
    process: SpawnProcess
    control: Connection
    pulse: Connection
    is_ready: bool = False
    end_recorded: bool = False

    @property
    def sentinel(self) -> int:
        """Becomes readable when the process has ended."""
        return self.process.sentinel

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process.pid is not None, "children are started when they are made"
        return self.process.pid

    def say(self, word: bytes) -> None:
        """Write a word into its control pipe."""
        with contextlib.suppress(OSError):  # it has ended already
            self.control.send_bytes(word)

    def say_stop(self) -> None:
        """Ask it to end in order."""
        self.say(STOP_WORD)


class Processes:
    """All children of one server.

    Args:
        recorder: the parent's part of the trace.

    Attributes:
        children: in the order of their start.
        call_form: how the model writes tool calls, once the tokenizers are ready.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.children: list[Child] = []
        self.call_form = CallForm.GENERIC
        self._recorder = recorder
        self._context = multiprocessing.get_context("spawn")
        self._acks: Any = self._context.Queue()

    def start(self, setup: WorkerSetup) -> None:
        """Start a child."""
        setup = replace(setup, spawned_ns=self._recorder.now())
        reader, writer = self._context.Pipe(duplex=False)
        pulse, beats = self._context.Pipe(duplex=False)
        process = self._context.Process(target=run_worker, args=(setup, reader, beats, self._acks), name=setup.name)
        with signals.blocked():
            process.start()
        reader.close()
        beats.close()
        child = Child(setup.name, setup.role, process, writer, pulse)
        self.children.append(child)
        if self._recorder.steps:
            self._recorder.emit(events.ProcessSpawned(self._recorder.now(), setup.name, child.pid))

    def wait_ready(self, timeout_s: float, on_ready: Callable[[str, int], None]) -> ExecutorInfo:
        """Wait until every child has acknowledged its start.

        Args:
            timeout_s: how long they may take.
            on_ready: told of each child that is ready, and how many are still missing.

        Returns:
            What the scheduler's executor offers.

        Raises:
            LearnsglError: the error that a child ended with.
            StartupError: a child died without a word, or the time is over.
        """
        waiting = {child.name for child in self.children}
        info: ExecutorInfo | None = None
        deadline = time.monotonic() + timeout_s
        while waiting:
            # looked at before the queue: a child that died before that has no words left in it
            dead = [child for child in self.children if child.name in waiting and not child.process.is_alive()]
            self._recorder.flush_if_due()
            ack = self._next_ack()
            if ack is None and dead:
                self.record_exit(dead[0], asked=False)
                raise StartupError(f"{dead[0].name} {how_it_ended(dead[0])} while it started; its log is above")
            if ack is None:
                _check_deadline(waiting, deadline, timeout_s)
                continue
            child = self._named(ack.name)
            if ack.error is not None:
                child.process.join(_STOP_WAIT_S)  # it closes its part of the trace
                self.record_exit(child, asked=False)
                raise rebuild_error(ack.name, *ack.error)
            child.is_ready = True
            waiting.discard(ack.name)
            info = ack.info or info
            self.call_form = ack.call_form or self.call_form
            if self._recorder.steps:
                self._recorder.emit(events.ProcessReady(self._recorder.now(), ack.name, ack.acked_ns))
            on_ready(ack.name, len(waiting))
        assert info is not None, "one of the children is a scheduler"
        return info

    def record_exit(self, child: Child, *, asked: bool) -> None:
        """Record that a child has ended, after being asked to or not."""
        child.end_recorded = True
        kind = events.ProcessExited if asked else events.ProcessLost
        if self._recorder.steps:
            self._recorder.emit(kind(self._recorder.now(), child.name, child.pid, child.process.exitcode))

    def close(self) -> None:
        """End the children that still run, and free what belongs to them.

        After a start that failed there are such: those that are ready end in order, with the last of their traces. The
        others are in the middle of loading, don't hear, and are killed.
        """
        self._stop_ready()
        for child in self.children:
            if child.process.is_alive():
                child.process.kill()
        for child in self.children:
            child.process.join(_KILL_WAIT_S)
            child.control.close()
            child.pulse.close()
            if not child.end_recorded:
                self.record_exit(child, asked=True)
            with contextlib.suppress(ValueError):  # it didn't die within the wait: the system is in trouble
                child.process.close()
        self.children = []
        self._acks.close()
        self._acks.join_thread()

    def _stop_ready(self) -> None:
        ready = [child for child in self.children if child.is_ready and child.process.is_alive()]
        for child in ready:
            child.say_stop()
        deadline = time.monotonic() + _STOP_WAIT_S
        for child in ready:
            child.process.join(max(0.0, deadline - time.monotonic()))

    def _named(self, name: str) -> Child:
        (child,) = [child for child in self.children if child.name == name]
        return child

    def _next_ack(self) -> Ack | None:
        try:
            ack: Ack = self._acks.get(timeout=_POLL_S)
        except queue.Empty:
            return None
        return ack


def _check_deadline(waiting: set[str], deadline: float, timeout_s: float) -> None:
    if time.monotonic() > deadline:
        names = ", ".join(sorted(waiting))
        raise StartupError(f"{names} did not get ready within {timeout_s:g} s; give more with --start-timeout-s")


def how_it_ended(child: Child) -> str:
    """The end of a child in words: `was ended by SIGKILL`, `ended with exit code 4`."""
    code = child.process.exitcode
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):  # a signal without a name
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def rebuild_error(process: str, kind: str, message: str) -> LearnsglError:
    """The error that a child's start ended with, of the same class where that is one of ours."""
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, LearnsglError) and not issubclass(known, RequestError):
        return known(message)
    return StartupError(f"{process} could not start: {kind}: {message}; its log is above")
