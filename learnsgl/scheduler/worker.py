"""The scheduler's process: makes the executor, acknowledges, and turns the loop until the parent says stop.

`launch.py` starts `run_scheduler`. The executor comes by name, so that this file never imports torch and a test can
put a fake in its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.errors import EngineError, RequestError
from learnsgl.message.codec import DETOKENIZER_CHANNEL, SCHEDULER_CHANNEL
from learnsgl.message.types import ErrorInfo
from learnsgl.scheduler.executor import Executor, ExecutorInfo
from learnsgl.scheduler.grammar import Grammars, grammars_of_model
from learnsgl.scheduler.grammar_desk import GrammarDesk, SchedulerMessage
from learnsgl.scheduler.io import SchedulerIO
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.server.worker import Worker, load_named, record_phase
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder

ExecutorFactory = Callable[[Path, str, EngineConfig, SchedulerConfig], Executor]


def run_scheduler(worker: Worker) -> None:
    """The scheduler's process, from making the executor to the parent's word to stop."""
    setup, recorder = worker.setup, worker.recorder
    start_ns = recorder.now()
    factory: ExecutorFactory = load_named(setup.executor_factory)
    record_phase(recorder, "import_engine", start_ns)
    executor = factory(setup.model_folder, setup.model_name, setup.config.engine, setup.config.scheduler)
    info = executor.info.under(setup.config.scheduler)
    grammars = grammars_of_model(setup.model_folder, info)
    desk = GrammarDesk(grammars)
    try:
        record_engine(recorder, info)
        scheduler = Scheduler(setup.config.scheduler, executor, recorder, run_key=setup.run_key, grammars=grammars)

        def after_trace_change() -> None:
            record_engine(recorder, info)
            scheduler.after_trace_change()

        worker.after_trace_change = after_trace_change
        if info.device.startswith("cuda"):
            load_grammars(recorder, grammars)
        io = SchedulerIO(worker.mailbox(SCHEDULER_CHANNEL), worker.sender(DETOKENIZER_CHANNEL), desk)
        worker.ready(info)
        run_loop(scheduler, io)
    finally:
        desk.close()
        executor.close()


def load_grammars(recorder: Recorder, grammars: Grammars) -> None:
    """Build the tree of tokens that masks are made with, which Python's global lock doesn't let anything else beside.

    On a GPU at the start: vocabularies are large there, and many answers would stall. On a CPU it waits for the first
    request with a grammar, which stalls the others for 0.3 s: few want one, and all would pay 64 MB and a later start.
    """
    start_ns = recorder.now()
    with contextlib.suppress(RequestError):  # of a model that can't be constrained; its requests are told
        grammars.load()
    record_phase(recorder, "load_grammars", start_ns)


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


def _turn(scheduler: Scheduler, io: SchedulerIO, messages: list[SchedulerMessage]) -> None:
    before = scheduler.step_number
    scheduler.receive(messages)
    reply = scheduler.step()
    if reply is not None:
        io.send(reply)
    if reply is not None or scheduler.step_number > before:
        io.progressed()  # a loop that comes round without this, again and again, is stuck too


def record_engine(recorder: Recorder, info: ExecutorInfo) -> None:
    """Record what an executor offers, once it is ready."""
    if not recorder.steps:
        return
    for phase, start_ns, end_ns in info.phases:
        recorder.emit(events.ProcessPhase(end_ns, phase, start_ns))
    for graph in info.graphs:
        recorder.emit(events.GraphCaptured(graph.end_ns, graph.size, graph.num_bytes, graph.start_ns))
    if info.memory:
        around = ("available_before", "available_after", "page")
        before, after, page_bytes = (info.memory[name] for name in around)
        parts = {name: num_bytes for name, num_bytes in info.memory.items() if name not in around}
        recorder.emit(events.EngineMemory(recorder.now(), parts, info.num_pages, page_bytes, before, after))
    recorder.emit(
        events.EngineReady(
            recorder.now(),
            info.model,
            info.device,
            info.dtype,
            info.num_pages,
            info.page_size,
            info.max_model_len,
            info.max_running_requests,
            info.memory,
        )
    )
