"""Clients that go away at any moment: whatever stage a request is in, all that it held comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from typing import Any

import httpx

from learnsgl.replay import Replay
from learnsgl.trace import events, life, lives
from learnsgl.trace.reader import Trace
from tests.load.clients import Answer, Client
from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import echo
from tests.server.running import RunningServer

NUM_REQUESTS = 1000
NUM_AT_ONCE = 48
NUM_PAGES = 4096
OPTIONS = (
    "--seed", "1", "--max-model-len", "600", "--max-prefill-length", "64", "--max-running-requests", "24",
    "--num-pages", str(NUM_PAGES), "--page-size", "2",
)  # fmt: skip


async def leave_at_random(client: Client, number: int, rng: random.Random, **fields: Any) -> Answer | None:
    """One request, and its client's way to go: after some time, after some chunks, or at once."""
    prompt = f"{rng.choice(('A shared beginning. ', ''))}{number}" + "x" * rng.choice((1, 30, 300))
    num_tokens = rng.choice((1, 4, 15, 80))
    how = rng.choice(("time", "chunks", "last", "at once"))
    leave_at = {"chunks": rng.randint(1, num_tokens), "last": max(1, num_tokens - 1)}.get(how, 0)
    patience_s = {"time": rng.uniform(0, 0.3), "at once": rng.uniform(0, 0.004)}.get(how, 20)
    with contextlib.suppress(TimeoutError, ConnectionError):
        stream = leave_at > 0 or rng.random() < 0.5
        asked = client.complete(prompt, num_tokens, stream=stream, leave_at=leave_at, **fields)
        return await asyncio.wait_for(asked, patience_s)
    return None


async def leave_all(server: RunningServer) -> None:
    client, rng, slots = Client(server), random.Random(5), asyncio.Semaphore(NUM_AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            await leave_at_random(client, number, rng)

    await asyncio.gather(*(one(number) for number in range(NUM_REQUESTS)))
    while (await client.get("/health"))[1]["num_running"]:
        await asyncio.sleep(0.01)
    assert (await client.complete("The next one. ", 40)).text == echo("The next one. ", 40)


def stages_left(trace: Trace) -> Counter[str]:
    """In which stage requests were when their clients went away."""
    left = {entry.event.uid: entry.event.ns for entry in trace.events("api")
            if isinstance(entry.event, events.HttpDisconnected)}  # fmt: skip
    found: Counter[str] = Counter()
    for one in lives.requests(trace):
        if one.key.uid not in left:
            continue
        ns, moments = left[one.key.uid], one.moments
        passed = [number for number, moment in enumerate(moments[:7]) if moment is not None and moment <= ns]
        found[life.STAGES[max(passed, default=0)]] += 1
    return found


def check_all_is_back(server: RunningServer) -> None:
    """Every row is free, nothing waits, and each page is free or the tree's alone."""
    end = Replay.open(server.trace_folder).end()
    assert (end.queue, end.running) == ((), ())
    assert end.rows is not None
    assert set(end.rows) == {None}
    assert end.tree is not None
    assert end.free_pages is not None
    in_tree = [int(page) for node in end.tree.values() for page in node.pages]
    assert sorted([*in_tree, *end.free_pages]) == list(range(NUM_PAGES))
    assert all(node.lock == 0 for node in end.tree.values() if node.parent is not None)


def test_a_thousand_clients_that_leave_at_random(start: Starter) -> None:
    server = start(*OPTIONS)
    asyncio.run(leave_all(server))
    answer = httpx.post(f"{server.url}/generate", json={"text": "AB", "sampling_params": {"max_new_tokens": 5}})
    assert answer.json()["text"] == echo("AB", 5)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.left_behind() == []
    trace = check_trace(server)  # one ending each, and the digests of the scheduler's state
    check_all_is_back(server)
    stages = stages_left(trace)
    assert {"tokenized", "queued", "prefilled", "decoded", "detokenized"} <= stages.keys(), stages
