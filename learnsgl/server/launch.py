"""Starting the server: what can be wrong is found first, then the workers start, then requests are taken.

`learnsgl serve` calls `launch_server`, which returns when the server has ended. Whatever happens, no process, socket
or folder of the server is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import zmq

from learnsgl.config import Config, TraceLevel, api_key
from learnsgl.errors import LearnsglError
from learnsgl.hub import ModelFiles, resolve_model
from learnsgl.message.channel import AsyncRecvChannel, SendChannel
from learnsgl.message.codec import API_CHANNEL, tokenizer_channel
from learnsgl.message.sockets import make_socket_folder, remove_socket_folder
from learnsgl.scheduler.executor import ENGINE_FACTORY, ExecutorInfo
from learnsgl.server import signals
from learnsgl.server.api_server import make_app
from learnsgl.server.cors import read_origins
from learnsgl.server.http import ModelCard
from learnsgl.server.http_trace import HttpTrace
from learnsgl.server.limits import Limits
from learnsgl.server.metrics_page import MetricsPage
from learnsgl.server.operator_routes import OperatorRoutes
from learnsgl.server.port import bind_port, is_public, listen, url_of
from learnsgl.server.processes import Processes
from learnsgl.server.redaction import without_secrets
from learnsgl.server.request_ids import RequestIds
from learnsgl.server.requests import RequestHub
from learnsgl.server.run_file import RunFile
from learnsgl.server.serving import Serving
from learnsgl.server.tracing import TraceControl, is_stopped
from learnsgl.server.watchdog import Watchdog
from learnsgl.server.worker import WorkerSetup, configure_logging, record_failure, record_phase
from learnsgl.trace.manifest import RunState, create_run, run_id_of, update_manifest
from learnsgl.trace.recorder import Recorder, open_recorder

API_NAME = "api"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerInfo:
    """What is told when the server is ready.

    Attributes:
        url: where it listens.
        model: name that clients use.
        executor: device and sizes.
        trace_folder: folder of this run's recording.
    """

    url: str
    model: str
    executor: ExecutorInfo
    trace_folder: Path | None

    def __str__(self) -> str:
        """The one line for people."""
        ex = self.executor
        size = "" if ex.page_size == 1 else f" of {ex.page_size}"
        pages = f"{ex.num_pages:,} pages{size} ({ex.num_pages * ex.page_size:,} tokens)"
        # where a request may be no longer than all pages together, it is they that cut the context
        cut = ", as many as the pages hold" if ex.max_model_len == ex.num_pages * ex.page_size else ""
        context = f"context of {ex.max_model_len:,}{cut}"
        trace = f"trace in {self.trace_folder}" if self.trace_folder else "no trace (--trace DIR)"
        return f"learnsgl ready: {self.url}/v1 · {self.model} · {ex.device}, {ex.dtype} · {pages} · {context} · {trace}"


def _print_line(info: ServerInfo) -> None:
    print(info, flush=True)


def launch_server(
    config: Config, *, executor_factory: str = ENGINE_FACTORY, on_ready: Callable[[ServerInfo], None] = _print_line
) -> None:
    """Start the server, serve, and return when a signal has ended it. Call it from the main thread.

    Args:
        config: every option.
        executor_factory: `module:function` that makes the executor; a test names a fake here.
        on_ready: told once when requests can come; by default prints one line.

    Raises:
        UsageError, StartupError: it can't start; nothing is left running.
        ServingError: it broke while it ran; nothing is left running.
        KeyboardInterrupt: Ctrl-C while it started.
    """
    config.check()
    read_origins(config.server.cors_origin)
    api_key(config.server)  # what can be wrong with it is said now
    configure_logging(config.server.log_level, API_NAME)
    with signals.raised_as_exceptions(), contextlib.ExitStack() as cleanup:
        try:
            _launch(config, executor_factory, on_ready, cleanup)
        finally:
            signals.ignore()  # the clean-up is short, and isn't to be interrupted


def _launch(
    config: Config, executor_factory: str, on_ready: Callable[[ServerInfo], None], cleanup: contextlib.ExitStack
) -> None:
    tell = _Progress()
    bound = cleanup.enter_context(bind_port(config.server.host, config.server.port))
    if is_public(bound) and api_key(config.server) is None:
        _log.warning(
            "--host %s opens the server to everyone on the network, and no key is asked for; set LEARNSGL_API_KEY, or "
            "--api-key", config.server.host,
        )  # fmt: skip
    trace_folder = _create_run(config)
    recorder = open_recorder(trace_folder, config.trace, API_NAME, API_NAME)
    cleanup.enter_context(_end_recorded(trace_folder, recorder))
    model = _resolve_model(config, recorder, tell)
    socket_folder = make_socket_folder()
    cleanup.callback(remove_socket_folder, socket_folder)
    run_file = RunFile(socket_folder)
    cleanup.callback(run_file.close)
    processes = Processes(recorder)
    cleanup.callback(processes.close)
    setup = WorkerSetup(
        name="", role="", entry="", config=config, socket_folder=socket_folder, trace_folder=trace_folder,
        model_folder=model.folder, model_name=model.name, executor_factory=executor_factory,
        run_key=secrets.token_bytes(16),
    )  # fmt: skip
    start_ns = recorder.now()
    for worker_setup in worker_setups(setup):
        tell(f"starting {worker_setup.name}")
        processes.start(worker_setup)
    run_file.starting(url_of(bound), model.name, trace_folder, processes.children)
    executor = processes.wait_ready(
        config.server.start_timeout_s, lambda name, missing: tell(f"{name} is ready, {missing} to go")
    )
    record_phase(recorder, "start_workers", start_ns)
    info = ServerInfo(url_of(bound), model.name, executor, trace_folder)
    if trace_folder is not None:
        update_manifest(trace_folder, model=_about_model(model), engine=asdict(executor), url=info.url)

    def tell_ready(info: ServerInfo) -> None:
        run_file.ready(executor.device, executor.dtype)
        on_ready(info)

    asyncio.run(_serve(setup, bound, processes, recorder, info, tell_ready))


async def _serve(
    setup: WorkerSetup,
    bound: socket.socket,
    processes: Processes,
    recorder: Recorder,
    info: ServerInfo,
    on_ready: Callable[[ServerInfo], None],
) -> None:
    """Connect the API to the workers, and serve."""
    listen(bound, setup.config.server.host, bound.getsockname()[1])
    context: zmq.Context[Any] = zmq.Context()
    folder = setup.socket_folder
    tokenizers = [
        SendChannel(context, folder, tokenizer_channel(index), sender=API_NAME, recorder=recorder)
        for index in range(max(1, setup.config.server.num_tokenizer))
    ]
    replies = AsyncRecvChannel(context, folder, API_CHANNEL, recorder=recorder)
    server = setup.config.server
    hub = RequestHub(tokenizers, HttpTrace(recorder), server.max_queue, server.request_timeout_s, processes.call_form)
    run_id = run_id_of(info.trace_folder) if info.trace_folder else secrets.token_hex(4)
    card = ModelCard(info.model, setup.config.engine.model, info.executor.max_model_len, int(time.time()))
    page = MetricsPage(hub.trace.metrics, info.model, info.executor.num_pages, info.executor.page_size)
    facts = {"engine": asdict(info.executor), "url": info.url}
    pulses = {child.name: child.pulse for child in processes.children}
    watchdog = Watchdog(pulses, server.worker_timeout_s, server.step_timeout_s)
    control = TraceControl(
        setup.config, _command(), facts, recorder, lambda: processes.children, setup.trace_folder, hub.trace.flush,
        watchdog.beats,
    )  # fmt: skip
    limits = Limits.of(server)
    app = make_app(
        hub, card, run_id, limits, api_key=api_key(server), origins=read_origins(server.cors_origin),
        operator=OperatorRoutes(page, limits, control),
    )  # fmt: skip
    try:
        serving = Serving(server, RequestIds(app, run_id), bound, hub, replies, processes, watchdog, recorder)
        await serving.run(lambda: on_ready(info))
    finally:
        control.close()
        signals.block_until_ignored()  # the loop's handlers go now
        replies.close()
        for channel in tokenizers:
            channel.close()
        context.term()


def worker_setups(base: WorkerSetup) -> list[WorkerSetup]:
    """What each worker is told, the one that takes longest to start first."""

    def one(name: str, role: str, entry: str, index: int = 0) -> WorkerSetup:
        return replace(base, name=name, role=role, entry=entry, index=index)

    num_tokenizer = base.config.server.num_tokenizer
    scheduler = one("scheduler-0", "scheduler", "learnsgl.scheduler.worker:run_scheduler")
    if num_tokenizer == 0:
        return [scheduler, one("tokenizer-detokenizer", "detokenizer", "learnsgl.tokenizer.worker:run_text_worker")]
    tokenizers = [
        one(f"tokenizer-{index}", "tokenizer", "learnsgl.tokenizer.worker:run_tokenizer", index)
        for index in range(num_tokenizer)
    ]
    return [scheduler, *tokenizers, one("detokenizer", "detokenizer", "learnsgl.tokenizer.worker:run_detokenizer")]


def _create_run(config: Config) -> Path | None:
    if config.trace.trace is None or config.trace.trace_level is TraceLevel.OFF:
        return None
    return create_run(config.trace.trace, config.to_json(), _command())


def _command() -> list[str]:
    """The command line as it can be typed."""
    program = Path(sys.argv[0]).name
    return ["learnsgl" if program == "__main__.py" else program, *without_secrets(sys.argv[1:])]


@contextlib.contextmanager
def _end_recorded(trace_folder: Path | None, recorder: Recorder) -> Iterator[None]:
    """Close the trace at the end of the run, and write into its manifest how the run ended."""
    facts: dict[str, Any] = {"state": RunState.ENDED, "exit_code": 0}
    try:
        yield
    except LearnsglError as error:
        facts = {"state": RunState.FAILED, "exit_code": error.exit_code, "error": str(error)}
        record_failure(recorder, error)
        raise
    except BaseException as error:
        facts = {"state": RunState.FAILED, "error": type(error).__name__}
        record_failure(recorder, error)
        raise
    finally:
        recorder.close()
        if trace_folder is not None and not is_stopped(trace_folder):
            update_manifest(trace_folder, **facts)


def _resolve_model(config: Config, recorder: Recorder, tell: Callable[[str], None]) -> ModelFiles:
    start_ns = recorder.now()
    tell(f"looking for the model {config.engine.model}")
    model = resolve_model(
        config.engine.model,
        served_name=config.engine.served_model_name,
        dummy_weights=config.engine.dummy_weights,
        progress=sys.stderr.isatty(),
    )
    record_phase(recorder, "resolve_model", start_ns)
    return model


def _about_model(model: ModelFiles) -> dict[str, Any]:
    """What the manifest tells of the model; not where it lies, since traces are given to others."""
    return {
        "name": model.name,
        "source": model.source.value,
        "architecture": model.architecture,
        "context_len": model.context_len,
        "eos_ids": list(model.eos_ids),
    }


class _Progress:
    """One line a phase of the start-up, for someone who watches."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, phase: str) -> None:
        if sys.stderr.isatty():
            print(f"[{time.monotonic() - self._start:5.1f} s] {phase}", file=sys.stderr, flush=True)
