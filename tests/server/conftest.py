from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learnsgl.errors import TraceError
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.server.running import RunningServer

Starter = Callable[..., RunningServer]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models' cache, empty at first."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def start(tmp_path: Path, home: Path) -> Iterator[Starter]:
    """Starts servers, and ends what is left of them after the test."""
    servers: list[RunningServer] = []

    def start(*options: str, echo: bool = True, wait_ready: bool = True) -> RunningServer:
        root = tmp_path / str(len(servers))
        root.mkdir()
        servers.append(RunningServer(root, home, *options, echo=echo, wait_ready=wait_ready))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[RunningServer]:
    """A server that several tests share. In the end it must drain, leave nothing behind, and have a whole trace."""
    running = RunningServer(tmp_path_factory.mktemp("server"), home, "--seed", "2", "--num-tokenizer", "2")
    try:
        assert running.url, running.log
        yield running
        running.process.terminate()
        assert running.wait() == 0, running.log
        assert running.left_behind() == []
        check_trace(running)
    finally:
        running.close()


def check_trace(running: RunningServer) -> Trace:
    """The trace of a server that has ended, proved whole."""
    trace = Trace.open(running.trace_folder)
    try:
        verify(trace)
    except TraceError as error:
        raise AssertionError(f"{error}\n{running.log}") from error
    return trace
