"""The scheduler's process: makes the executor, acknowledges, and turns the loop until the parent says stop.

`launch.py` starts `run_scheduler`. The executor comes by name, so that this file never imports torch and a test can
put a fake in its place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.errors import EngineError, StartupError
from learnsgl.message.codec import DETOKENIZER_CHANNEL, SCHEDULER_CHANNEL
from learnsgl.message.types import AbortMsg, ErrorInfo, UserMsg
from learnsgl.scheduler.executor import Executor, ExecutorInfo
from learnsgl.scheduler.io import SchedulerIO
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.server.worker import Worker, WorkerSetup, record_phase, run_worker
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder

ExecutorFactory = Callable[[Path, str, EngineConfig, SchedulerConfig], Executor]


def run_scheduler(setup: WorkerSetup, control: Connection, acks: Any) -> None:
    """Entry of the scheduler's process; see `server.worker.run_worker` for the arguments."""
    run_worker(setup, control, acks, _serve)


def _serve(worker: Worker) -> None:
    setup, recorder = worker.setup, worker.recorder
    start_ns = recorder.now()
    factory = load_factory(setup.executor_factory)
    record_phase(recorder, "imports", start_ns)
    executor = factory(setup.model_folder, setup.model_name, setup.config.engine, setup.config.scheduler)
    try:
        _record_engine(recorder, executor.info, setup.config.scheduler)
        scheduler = Scheduler(setup.config.scheduler, executor, recorder, run_key=setup.run_key)
        io = SchedulerIO(worker.mailbox(SCHEDULER_CHANNEL), worker.sender(DETOKENIZER_CHANNEL))
        worker.ready(executor.info)
        run_loop(scheduler, io)
    finally:
        executor.close()


def run_loop(scheduler: Scheduler, io: SchedulerIO) -> None:
    """Receive, step, reply, until the parent says stop and nothing is left to do.

    Raises:
        EngineError: the engine failed; every request has got its ending before this is raised.
    """
    try:
        while not io.stopping:
            _turn(scheduler, io, io.receive(block=not scheduler.has_work))
        last = io.receive_last()
        while last or scheduler.has_work:
            _turn(scheduler, io, last)
            last = io.receive(block=False) if scheduler.has_work else io.receive_last()
        scheduler.close()
    except EngineError as error:
        io.send(scheduler.fail_all(ErrorInfo(f"the engine failed: {error}", 500, "engine_error")))
        raise


def _turn(scheduler: Scheduler, io: SchedulerIO, messages: list[UserMsg | AbortMsg]) -> None:
    scheduler.receive(messages)
    reply = scheduler.step()
    if reply is not None:
        io.send(reply)


def load_factory(name: str) -> ExecutorFactory:
    """The function that `module:function` names.

    Raises:
        StartupError: there is no such module or function.
    """
    module_name, _, function = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise StartupError(f"the executor {name} can't be loaded: {error}") from error
    return factory  # type: ignore[no-any-return]  # a dotted name can't carry a type


def _record_engine(recorder: Recorder, info: ExecutorInfo, config: SchedulerConfig) -> None:
    if not recorder.steps:
        return
    for phase, start_ns, end_ns in info.phases:
        recorder.emit(events.ProcessPhase(end_ns, phase, start_ns))
    recorder.emit(
        events.EngineReady(
            recorder.now(),
            info.model,
            info.device,
            info.dtype,
            info.num_pages,
            info.page_size,
            info.max_model_len,
            config.max_running_requests,
            info.memory,
        )
    )
