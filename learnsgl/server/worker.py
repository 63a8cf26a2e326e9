"""What every child process does around its own work: signals, log, trace, sockets, acknowledgement, and its end.

`launch.py` starts `run_worker` in a process of its own for `run_tokenizer`, `run_detokenizer` and `run_scheduler`.
They come by name and are imported here, in the child: the parent never loads what only a child needs.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zmq

from learnsgl.config import Config
from learnsgl.errors import LearnsglError, StartupError
from learnsgl.message.channel import RecvChannel, SendChannel
from learnsgl.message.mailbox import TRACE_STOP_WORD, Loop, Mailbox, ParentGone, parse_trace_start
from learnsgl.message.sockets import remove_socket_folder
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.server import signals
from learnsgl.server.watchdog import Pulse
from learnsgl.tokenizer.tool_forms import CallForm
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder, begin_recording, open_recorder

SHOW_STACKS = signal.SIGUSR1
"""On this signal a worker writes where each of its threads is into the log, also while it is stuck in foreign code."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that a child process is told at its start.

    Attributes:
        name: unique name of the process, such as `tokenizer-0`.
        role: tokenizer, scheduler or detokenizer.
        entry: `module:function` that does its work; it takes a `Worker`.
        config: every option.
        socket_folder: where the channels lie.
        trace_folder: folder of this run's recording, if there is one.
        model_folder: the model's files, in Hugging Face's layout.
        model_name: name that clients use for the model.
        executor_factory: `module:function` that makes the executor; only the scheduler calls it.
        run_key: key of the digests in the trace; never written anywhere.
        index: which of the workers of its role this is, counted from 0.
        spawned_ns: when the parent began to start it, on `time.monotonic_ns`.
    """

    name: str
    role: str
    entry: str
    config: Config
    socket_folder: Path
    trace_folder: Path | None
    model_folder: Path
    model_name: str
    executor_factory: str
    run_key: bytes
    index: int = 0
    spawned_ns: int = 0


@dataclass(frozen=True)
class Ack:
    """What a child puts into the start-up queue: that it is ready, or why it can't be.

    Attributes:
        name: the child.
        acked_ns: when it was put there.
        info: what the scheduler's executor offers; `None` from the others.
        call_form: how the model writes tool calls; from the tokenizers only.
        error: class name and message of the error that ended the start-up.
    """

    name: str
    acked_ns: int
    info: ExecutorInfo | None = None
    call_form: CallForm | None = None
    error: tuple[str, str] | None = None


class Worker:
    """A running child process, as its own code sees it.

    Attributes:
        setup: what it was told at its start.
        recorder: its part of the trace.
        after_trace_change: called when a recording has begun or ended while the process runs.
        loop: what its loop does, for the watchdog.
    """

    def __init__(
        self, setup: WorkerSetup, control: Connection, pulse: Connection, acks: Any, recorder: Recorder
    ) -> None:
        self.setup = setup
        self.recorder = recorder
        self.is_ready = False
        self.loop = Loop()
        self._pulse = Pulse(pulse, self.loop, recorder)
        self.after_trace_change: Callable[[], None] = lambda: None
        self._control = control
        self._acks = acks
        self._context: zmq.Context[Any] = zmq.Context()
        self._open: list[SendChannel | Mailbox] = []

    def sender(self, channel: str) -> SendChannel:
        """Connect to a channel. Two jobs in one process share the connection: a sender's messages have one count."""
        for end in self._open:
            if isinstance(end, SendChannel) and end.channel == channel:
                return end
        sender = SendChannel(
            self._context, self.setup.socket_folder, channel, sender=self.setup.name, recorder=self.recorder
        )
        self._open.append(sender)
        return sender

    def mailbox(self, *channels: str) -> Mailbox:
        """Bind channels, and listen to them and to the parent."""
        ends = [
            RecvChannel(self._context, self.setup.socket_folder, channel, recorder=self.recorder)
            for channel in channels
        ]
        mailbox = Mailbox(ends, self._control, self.recorder, self._on_word, self.loop)
        self._open.append(mailbox)
        return mailbox

    def start_beating(self) -> None:
        """From now on the parent hears that this process runs."""
        self._pulse.start(self.setup.config.server.worker_timeout_s)

    def _on_word(self, word: bytes) -> None:
        """The parent asks to begin or to end a recording, and waits until that is done."""
        wanted = parse_trace_start(word)
        if wanted is not None:
            folder, level = wanted
            config = replace(self.setup.config.trace, trace_level=level)
            begin_recording(self.recorder, folder, config, self.setup.name, self.setup.role, late=True)
            self.after_trace_change()
        elif word == TRACE_STOP_WORD:
            self.recorder.close(in_order=False)
            self.after_trace_change()
        self._pulse.beat()

    def ready(self, info: ExecutorInfo | None = None, call_form: CallForm | None = None) -> None:
        """Tell the parent that requests can come."""
        self.is_ready = True
        self.recorder.flush()
        self._acks.put(Ack(self.setup.name, time.monotonic_ns(), info, call_form))

    def fail(self, error: BaseException) -> None:
        """Tell the parent why this process can't start, and wait until the words are in the pipe."""
        self._acks.put(Ack(self.setup.name, time.monotonic_ns(), error=(type(error).__name__, str(error))))
        self._acks.close()
        self._acks.join_thread()

    def close(self, *, in_order: bool) -> None:
        """Send what is waiting, close the sockets, and write the last of the trace: whole only after an orderly end."""
        for channel in self._open:
            channel.close()
        self._context.term()
        if in_order:
            self.recorder.close()
        else:
            self.recorder.flush()


def run_worker(setup: WorkerSetup, control: Connection, pulse: Connection, acks: Any) -> None:
    """Body of a child process. Returns when its work is done in order; otherwise ends the process non-zero.

    Its entry opens channels, calls `Worker.ready`, and serves until the parent says stop.

    Args:
        setup: what this process is told.
        control: reading end of a pipe from the parent; closed means that the parent is gone.
        pulse: writing end of a pipe to the parent, who hears in it that this process runs.
        acks: the start-up queue.
    """
    signals.ignore()  # only the parent decides when to drain
    configure_logging(setup.config.server.log_level, setup.name)
    threading.Thread(target=_end_with_parent, args=(setup.socket_folder,), name="parent-watch", daemon=True).start()
    faulthandler.register(SHOW_STACKS)
    start_ns = time.monotonic_ns()
    recorder = open_recorder(setup.trace_folder, setup.config.trace, setup.name, setup.role)
    worker = Worker(setup, control, pulse, acks, recorder)
    worker.start_beating()
    record_phase(recorder, "start_process", setup.spawned_ns)
    try:
        imports_ns = recorder.now()
        work = load_named(setup.entry)
        record_phase(recorder, "imports", imports_ns)
        work(worker)
    except ParentGone:
        _abandon(setup.socket_folder)
    except Exception as error:
        code = error.exit_code if isinstance(error, LearnsglError) else LearnsglError.exit_code
        if worker.is_ready or not isinstance(error, LearnsglError):
            _log.exception("%s ends after %.1f s", setup.name, (time.monotonic_ns() - start_ns) / 1e9)
        record_failure(recorder, error)
        if not worker.is_ready:
            worker.fail(error)
        worker.close(in_order=False)
        sys.exit(code)
    worker.close(in_order=True)


def load_named(name: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        StartupError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StartupError(f"{name} can't be loaded: {error}") from error
    return found


def record_phase(recorder: Recorder, phase: str, start_ns: int) -> None:
    """Record that a phase of the start-up has ended now; at once, since the next one may end this process."""
    if recorder.steps:
        recorder.emit(events.ProcessPhase(recorder.now(), phase, start_ns))
        recorder.flush()


def record_failure(recorder: Recorder, error: BaseException) -> None:
    """Record why this process ends, at once. A defect's message may hold parts of a prompt, and is left out."""
    if recorder.steps:
        message = str(error) if isinstance(error, LearnsglError) else ""
        recorder.emit(events.ProcessFailed(recorder.now(), type(error).__name__, message))
        recorder.flush()


def configure_logging(level: str, process: str) -> None:
    """Send this process's log to the standard error stream, each line with the process's name."""
    line = f"%(asctime)s {process} %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=line, stream=sys.stderr)
    logging.getLogger("learnsgl").setLevel(level.upper())


def _end_with_parent(socket_folder: Path) -> None:
    """Wait on a thread until the parent is dead, also while the main thread loads weights or runs a step."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by launch.py"
    multiprocessing.connection.wait([parent.sentinel])
    _abandon(socket_folder)


def _abandon(socket_folder: Path) -> None:
    """The parent was killed: leave nothing behind, and end without waiting for threads or the device."""
    remove_socket_folder(socket_folder)
    os._exit(LearnsglError.exit_code)
