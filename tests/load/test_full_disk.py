"""A disk that takes no more of the trace: requests are answered all the same, and the trace says what it lacks."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import psutil
import pytest

from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import RETRY_NS
from learnsgl.trace.verify import verify
from tests.load.clients import Client
from tests.server.conftest import Starter
from tests.server.echo_executor import echo
from tests.server.running import RunningServer

NOTHING_MORE = 1


async def ask(server: RunningServer, num_requests: int) -> None:
    answers = await asyncio.gather(*(Client(server).complete(f"{number};", 60) for number in range(num_requests)))
    assert [answer.text for answer in answers] == [echo(f"{number};", 60) for number in range(num_requests)]


def forbid_writing(processes: Mapping[str, psutil.Process]) -> dict[str, tuple[int, int]]:
    """From now on these processes' writes to files fail. Returns the limits that they had."""
    before = {name: process.rlimit(psutil.RLIMIT_FSIZE) for name, process in processes.items()}
    for name, process in processes.items():
        process.rlimit(psutil.RLIMIT_FSIZE, (NOTHING_MORE, before[name][1]))
    return before


def status_when(server: RunningServer, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status of the recording, once it is as it should be: workers tell theirs every second."""
    deadline = time.monotonic() + 20
    while not is_wanted(status := httpx.get(f"{server.url}/trace/status").json()):
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")
def test_a_disk_that_is_full_for_every_process_costs_events_and_no_answer(start: Starter) -> None:
    server = start("--max-running-requests", "4")
    processes = {"api": psutil.Process(server.process.pid)} | server.workers()
    before = forbid_writing(processes)
    for _ in range(8):
        asyncio.run(ask(server, 40))
    told = status_when(server, lambda status: set(status["failing"]) == set(processes))
    assert told["recording"] is True
    assert set(told["failing"].values()) == {os.strerror(errno.EFBIG)}
    assert told["lost_events"] > 0, "more happened than the list of events holds"
    for name in processes:
        lines = [line for line in server.log.splitlines() if f" {name} WARNING" in line]
        assert sum("the trace can't be written" in line for line in lines) == 1, "it says so once"
    for name, process in processes.items():
        process.rlimit(psutil.RLIMIT_FSIZE, before[name])
    asyncio.run(ask(server, 4))
    time.sleep(RETRY_NS / 1e9)
    asyncio.run(ask(server, 4))
    lost_events = status_when(server, lambda status: not status["failing"])["lost_events"]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.left_behind() == []
    trace = Trace.open(server.trace_folder)
    report = verify(trace)
    dropped = [entry.event for entry in trace.events() if isinstance(entry.event, events.TraceDropped)]
    assert sum(event.last - event.first + 1 for event in dropped) == lost_events
    assert any("were lost" in note for note in report.notes)
    assert set(trace.processes) == set(processes)
