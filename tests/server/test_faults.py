"""Faults inside of a worker that still runs: a loop that is stuck, that spins, or that comes round and does nothing."""

from __future__ import annotations

import signal
from typing import cast

import httpx
import pytest

from learnsgl.scheduler.io import SchedulerIO
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.scheduler.worker import run_loop
from tests.server.conftest import Starter
from tests.server.test_life import FEW, Caller, check_lost

QUICK = ("--worker-timeout-s", "30", "--step-timeout-s", "1.5")


@pytest.mark.parametrize("prompt", ["\x06", "\x05"], ids=["never returns", "spins"])
def test_an_engine_that_is_stuck_ends_every_request_and_the_server(start: Starter, prompt: str) -> None:
    server = start("--seed", "20", *FEW, *QUICK)
    waiting = Caller(server, 250)
    assert waiting.first_chunk.wait(20)
    sticking = Caller(server, 5, stream=False, prompt=prompt)
    for caller in (waiting, sticking):
        caller.join(20)
        assert caller.error is not None
        assert caller.error["code"] == "worker_lost"
        assert "scheduler-0" in caller.error["message"]
        assert "stuck, busy with one thing for 1.5 s" in caller.error["message"]
    assert sticking.status == 503
    check_lost(server, "scheduler-0")
    assert "in collect" in server.log, "the log shows where its threads were"


def test_a_step_within_the_limit_is_let_alone(start: Starter) -> None:
    server = start("--seed", "2500", *FEW, "--worker-timeout-s", "1.5", "--step-timeout-s", "6")
    answer = httpx.post(
        f"{server.url}/generate", json={"text": "AB", "sampling_params": {"max_new_tokens": 3}}, timeout=60
    )
    assert answer.json()["text"] == "ABA"  # 7.5 s of work in all, and no step of more than 2.5 s
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log


class OneTurn:
    """As much of a scheduler, and of its channels, as one turn of the loop needs.

    Args:
        steps: how many steps a turn submits.
        reply: what it gives to the detokenizer.
    """

    def __init__(self, steps: int, reply: object) -> None:
        self.has_work = True
        self.step_number = 0
        self.num_progressed = 0
        self._steps = steps
        self._reply = reply

    @property
    def stopping(self) -> bool:
        return not self.has_work

    def receive(self, *args: object, **options: object) -> list[object]:
        return []

    def receive_last(self) -> list[object]:
        return []

    def step(self) -> object:
        self.step_number += self._steps
        self.has_work = False
        return self._reply

    def send(self, message: object) -> None:
        """It goes nowhere."""

    def progressed(self) -> None:
        self.num_progressed += 1

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(("steps", "reply", "num_progressed"), [(1, None, 1), (0, "tokens", 1), (0, None, 0)])
def test_a_turn_counts_only_where_something_was_done(steps: int, reply: object, num_progressed: int) -> None:
    turn = OneTurn(steps, reply)
    run_loop(cast(Scheduler, turn), cast(SchedulerIO, turn))
    assert turn.num_progressed == num_progressed
