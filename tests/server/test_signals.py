"""A signal at any moment of an event loop's life ends it in order, and is told once it is closed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from learnsgl.server.signals import STOP_SIGNALS, run_or_cancel


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def test_without_a_signal_it_is_asyncio_run() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    assert run_or_cancel(answer) == 42
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("waits", [True, False], ids=["while it waits", "in its last turn"])
def test_a_signal_cancels(number: signal.Signals, raised: type[BaseException], waits: bool) -> None:
    ends: list[str] = []

    async def ask() -> None:
        os.kill(os.getpid(), number)
        try:
            if waits:
                await asyncio.sleep(60)
        finally:
            ends.append("in order")

    with pytest.raises(raised):
        run_or_cancel(ask)
    assert ends == ["in order"]


def test_a_signal_at_a_random_moment_leaves_no_half_made_loop() -> None:
    """What is left behind warns when it is collected, and a warning fails a test."""
    for place in range(40):
        sender = threading.Thread(target=lambda pause: (time.sleep(pause), os.kill(os.getpid(), signal.SIGINT)),
                                  args=(place * 2e-5,))  # fmt: skip
        try:
            sender.start()
            run_or_cancel(answer)
            sender.join()
            time.sleep(0.001)
        except KeyboardInterrupt:
            sender.join()
            continue
        pytest.fail("the signal was lost")
