"""A disk that takes no more of the trace: requests are answered all the same, and the trace says what it lacks."""

from __future__ import annotations

import asyncio
import signal
import sys

import psutil
import pytest

from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.load.clients import Client
from tests.server.conftest import Starter
from tests.server.echo_executor import echo
from tests.server.running import RunningServer

NOTHING_MORE = 1


async def ask(server: RunningServer, num_requests: int) -> None:
    answers = await asyncio.gather(*(Client(server).complete(f"{number};", 60) for number in range(num_requests)))
    assert [answer.text for answer in answers] == [echo(f"{number};", 60) for number in range(num_requests)]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")
def test_a_full_disk_costs_events_and_no_answer(start: Starter) -> None:
    server = start("--num-tokenizer", "0", "--max-running-requests", "4")
    scheduler = server.workers()["scheduler-0"]
    before = scheduler.rlimit(psutil.RLIMIT_FSIZE)
    scheduler.rlimit(psutil.RLIMIT_FSIZE, (NOTHING_MORE, before[1]))  # its writes fail from now on
    for _ in range(8):
        asyncio.run(ask(server, 40))
    assert "the trace can't be written" in server.log
    scheduler.rlimit(psutil.RLIMIT_FSIZE, before)
    asyncio.run(ask(server, 4))
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.left_behind() == []
    trace = Trace.open(server.trace_folder)
    report = verify(trace)
    dropped = [entry.event for entry in trace.events("scheduler-0") if isinstance(entry.event, events.TraceDropped)]
    assert dropped, "more happened than the list of events holds"
    assert any("were lost" in note for note in report.notes)
