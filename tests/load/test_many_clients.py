"""Hundreds of clients at once: each gets its own text, nobody starves, and the server still answers small questions."""

from __future__ import annotations

import asyncio
import signal

from tests.load.clients import Answer, Client
from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import echo
from tests.server.running import MODEL, RunningServer

NUM_LONG = 8
NUM_REQUESTS = 256
LONG, SHORT = 800, 3


def prompt_of(number: int) -> str:
    """Some share a beginning, and some are longer than a step's share of prompt tokens."""
    return (
        ("We begin alike. " if number % 3 else "") + f"I am number {number}; " + "y" * (200 if number % 5 == 0 else 0)
    )


def length_of(number: int) -> int:
    return LONG if number < NUM_LONG else SHORT if number >= NUM_REQUESTS - NUM_LONG else 5 + number % 60


async def ask_all(server: RunningServer) -> list[Answer]:
    """The long ones are under way before the others come, and the short ones come last."""
    client = Client(server)

    def ask(number: int) -> asyncio.Task[Answer]:
        request = client.complete(prompt_of(number), length_of(number), stream=number % 2 == 0)
        return asyncio.create_task(request)

    tasks = [ask(number) for number in range(NUM_LONG)]
    while (await client.get("/health"))[1]["num_running"] < NUM_LONG:
        await asyncio.sleep(0.01)
    tasks += [ask(number) for number in range(NUM_LONG, NUM_REQUESTS)]
    while not all(task.done() for task in tasks):
        status, health = await client.get("/health")
        assert (status, health["status"]) == (200, "ok")
        status, models = await client.get("/v1/models")
        assert (status, [card["id"] for card in models["data"]]) == (200, [MODEL])
        await asyncio.sleep(0.02)
    return [task.result() for task in tasks]


def test_256_clients_at_once(start: Starter) -> None:
    server = start("--seed", "1", "--max-model-len", "1600", "--num-pages", "32768", "--max-prefill-length", "128")
    answers = asyncio.run(asyncio.wait_for(ask_all(server), 120))
    for number, answer in enumerate(answers):
        assert (answer.status, answer.error, answer.finish_reason) == (200, None, "length"), number
        assert answer.text == echo(prompt_of(number), length_of(number)), number
    last_short = max(answer.ended_at for answer in answers[-NUM_LONG:])
    assert last_short < min(answer.ended_at for answer in answers[:NUM_LONG]), "a short one overtakes a long one"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    check_trace(server)
