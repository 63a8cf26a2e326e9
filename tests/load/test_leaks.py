"""Thousands of requests in a row, slow readers, and a soak: memory stays flat, and nothing is leaked.

`make soak` runs those with the mark `soak`: 10,000 requests, and fifteen minutes of random load. With
`ARGS="--soak-results FOLDER"` what they have measured is written there; docs/soak.md shows the last that was.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import Report, verify
from tests.load.clients import Client
from tests.load.results import Soak
from tests.load.test_cancel import check_all_is_back, leave_at_random
from tests.load.usage import Usage, check_flat, usage_of
from tests.server.conftest import Starter
from tests.server.echo_executor import echo
from tests.server.running import RunningServer

SOAK_S = 600
OPTIONS = ("--max-model-len", "600", "--num-pages", "4096", "--page-size", "2", "--trace-level", "steps")


async def tiny_requests(server: RunningServer, num_requests: int, num_at_once: int = 8) -> None:
    """Requests in a row from a few clients; each gets its own text."""
    client, numbers = Client(server), iter(range(num_requests))

    async def worker() -> None:
        for number in numbers:
            answer = await client.complete(f"{number},", 4, stream=number % 2 == 0)
            assert (answer.status, answer.text) == (200, echo(f"{number},", 4))

    await asyncio.gather(*(worker() for _ in range(num_at_once)))


Asker = Callable[[Client, int, random.Random], Awaitable[object]]


async def random_load(server: RunningServer, seconds: float, ask: Asker = leave_at_random) -> int:
    """Clients of all kinds, more and fewer of them, some of whom go away. Returns how many requests they sent."""
    client, rng, end = Client(server), random.Random(3), time.monotonic() + seconds
    num_sent = 0
    while time.monotonic() < end:
        many = rng.choice((1, 8, 40))
        await asyncio.gather(*(ask(client, num_sent + number, rng) for number in range(many)))
        num_sent += many
    return num_sent


async def ask_for_a_form(client: Client, number: int, rng: random.Random) -> None:
    """A request whose answer must keep to a grammar: one that many have, one of its own, or one that can't be."""
    kind = rng.choice(("regex", "schema", "own regex", "own schema", "plain", "wrong"))
    own = number if kind.startswith("own") else rng.randrange(20)
    pattern = rf"[A-Z]{{2,9}}-{own}"
    properties = {
        f"p{own}": {"type": "integer"},
        "words": {"type": "array", "items": {"enum": ["yes", "no", str(own)]}},
    }
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    fields: dict[str, dict[str, Any]] = {
        "regex": {"structured_outputs": {"regex": pattern}},
        "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        "plain": {},
        "wrong": {"structured_outputs": {"regex": f"(unclosed{number}"}},
    }
    answer = await leave_at_random(client, number, rng, **fields[kind.removeprefix("own ")])
    if kind == "wrong":
        assert answer is None or answer.status in (0, 400)
    elif answer is not None and answer.finish_reason == "stop":
        assert answer.status == 200
        assert "regex" not in kind or re.fullmatch(pattern, answer.text)
        assert "schema" not in kind or json.loads(answer.text).keys() == properties.keys()


async def wait_idle(server: RunningServer) -> None:
    client = Client(server)
    while (await client.get("/health"))[1]["num_running"]:
        await asyncio.sleep(0.01)


def settle(server: RunningServer) -> None:
    """Wait until no request runs and the cache is empty."""
    asyncio.run(wait_idle(server))
    assert httpx.post(f"{server.url}/flush_cache").is_success


def end(server: RunningServer) -> Report:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.left_behind() == []
    return verify(Trace.open(server.trace_folder))


def check_soak(soak: Soak, server: RunningServer, more_mb: float) -> None:
    assert soak.pages_after is not None
    assert (soak.pages_after.num_running, soak.pages_after.num_cached) == (0, 0)
    check_flat(soak.before, soak.after, more_mb)


def run_tiny(server: RunningServer, soak: Soak, num_requests: int) -> None:
    asyncio.run(tiny_requests(server, 300))  # what is kept for later is made now
    settle(server)
    soak.look(server)
    asyncio.run(tiny_requests(server, num_requests))
    settle(server)
    soak.look(server, num_requests)


def test_a_thousand_tiny_requests_leave_nothing(start: Starter) -> None:
    options = (*OPTIONS, "--num-tokenizer", "0")
    server, soak = start(*options), Soak("a_thousand", options)
    run_tiny(server, soak, 1000)
    soak.write(None, end(server))
    check_soak(soak, server, 10)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_thousand_tiny_requests_leave_nothing(start: Starter, soak_folder: Path | None) -> None:
    server, soak = start(*OPTIONS), Soak("ten_thousand", OPTIONS)
    run_tiny(server, soak, 10_000)
    soak.write(soak_folder, end(server))
    check_soak(soak, server, 10)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 900)
def test_a_soak_under_random_load(start: Starter, soak_folder: Path | None) -> None:
    options = (*OPTIONS[:-2], "--seed", "1", "--num-tokenizer", "2", "--trace-max-bytes", "0")
    server, soak = start(*options), Soak("random_load", options)
    asyncio.run(random_load(server, SOAK_S / 10))
    settle(server)
    soak.look(server)
    num_sent = asyncio.run(random_load(server, SOAK_S))
    settle(server)
    soak.look(server, num_sent)
    soak.write(soak_folder, end(server))
    check_soak(soak, server, 20)
    check_all_is_back(server)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_soak_of_constrained_answers(start: Starter, soak_folder: Path | None) -> None:
    """A third of the requests bring a grammar that nobody had before: what is kept of grammars goes out again."""
    options = (*OPTIONS[:-2], "--seed", "1", "--num-tokenizer", "2", "--trace-max-bytes", "0")
    server, soak = start(*options), Soak("constrained", options)
    asyncio.run(random_load(server, SOAK_S / 5, ask_for_a_form))  # until as many grammars are kept as may be
    settle(server)
    soak.look(server)
    num_sent = asyncio.run(random_load(server, SOAK_S / 2, ask_for_a_form))
    settle(server)
    soak.look(server, num_sent)
    soak.write(soak_folder, end(server))
    check_soak(soak, server, 20)
    check_all_is_back(server)


async def read_slowly(server: RunningServer, seconds: int) -> int:
    """Ask for a long stream, and read one byte of it a second. Returns how many bytes that were."""
    client = Client(server)
    reader, writer = await client.connect(receive_buffer=4096)
    body = {"text": "ABCDEFGH", "stream": True, "sampling_params": {"max_new_tokens": 3000}}
    client.write(writer, "POST", "/generate", body)
    taken = b""
    for _ in range(seconds):
        taken += await reader.readexactly(1)
        await asyncio.sleep(1)
    writer.transport.abort()
    return len(taken)


async def many_read_slowly(server: RunningServer, num_clients: int, seconds: int) -> dict[str, Usage]:
    """Several of them, and what the server holds once all that they asked for is generated."""
    client = Client(server)
    slow = [asyncio.create_task(read_slowly(server, seconds)) for _ in range(num_clients)]
    answer = await client.complete("AB", 3000)  # doesn't wait for the others, and takes as long as theirs
    assert answer.text == echo("AB", 3000)
    held = usage_of(server)
    assert await asyncio.gather(*slow) == [seconds] * num_clients
    await wait_idle(server)
    return held


def test_clients_that_read_one_byte_a_second(start: Starter) -> None:
    """Each of their streams would take 4.5 MB: every event of /generate repeats the text before it."""
    server = start("--max-model-len", "4096", "--num-pages", "65536", "--trace-level", "steps", "--num-tokenizer", "0")
    asyncio.run(many_read_slowly(server, 12, 1))
    settle(server)
    before = usage_of(server)
    held = asyncio.run(many_read_slowly(server, 12, 3))
    assert held["api"].rss_mb - before["api"].rss_mb < 12, (before, held)
    settle(server)
    check_flat(before, usage_of(server), 10)
    end(server)
