"""Who hears Ctrl-C and SIGTERM: the parent alone, by an exception while it starts, in its loop while it serves.

A terminal and a service manager send these signals to every process of a group. `launch.py`, `processes.py`,
`serving.py` and `worker.py` use what is here, so that a signal at any moment leads to one orderly end.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
def blocked() -> Iterator[Callable[[], None]]:
    """Hold the signals back in here: a child that is started inherits this, and calls `ignore` once it runs.

    Yields:
        A function that lets them through earlier, those that came meanwhile first.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield release
    finally:
        release()


def block_until_ignored() -> None:
    """Hold the signals back until `ignore` is called: for the moment in which an event loop gives its handlers up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def ignore() -> None:
    """Ignore the signals from now on, those that were held back included."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
