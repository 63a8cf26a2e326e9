"""Who hears Ctrl-C and SIGTERM: the parent alone, by an exception while it starts, in its loop while it serves.

A terminal and a service manager send these signals to every process of a group. `launch.py`, `processes.py`,
`serving.py` and `worker.py` use what is here, so that a signal at any moment leads to one orderly end.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


@contextlib.contextmanager
def raised_as_exceptions() -> Iterator[None]:
    """In here SIGTERM raises `SystemExit`, as Ctrl-C raises `KeyboardInterrupt`; afterwards all is as it was."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Hold the signals back in here: a child that is started inherits this, and calls `ignore` once it runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_or_cancel(start: Callable[[], Awaitable[T]]) -> T:
    """As `asyncio.run(start())`, but a signal at any moment cancels the task, and raises once the loop is closed.

    `asyncio.run` hears Ctrl-C only while its task runs: one that comes while the loop is made or closed leaves half a
    loop behind, which complains when it is collected. Blocking the signals wouldn't help: another thread takes them.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
        SystemExit: SIGTERM came.
    """
    came: list[int] = []
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for loop, task in running:
            loop.call_soon_threadsafe(task.cancel)

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None, "a coroutine that asyncio.run runs is a task"
        running.append((asyncio.get_running_loop(), task))
        try:
            if came:
                raise asyncio.CancelledError
            return await start()
        finally:
            running.clear()

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        return asyncio.run(main())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(128 + came[0])


def block_until_ignored() -> None:
    """Hold the signals back until `ignore` is called: for the moment in which an event loop gives its handlers up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def ignore() -> None:
    """Ignore the signals from now on, those that were held back included."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
