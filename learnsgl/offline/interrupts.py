"""Ctrl-C between steps, never within one: half a step taken over would leave pages and tables that don't agree.

`pipeline.py` runs each turn of its loop in here. The interrupt isn't lost; it is raised a step later.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep an interrupt (SIGINT) until the block has ended, then hand it to whoever handled interrupts before.

    Only Python's main thread is ever interrupted, so in other threads there is nothing to do.
    """
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(before):  # interrupts end the process at once, or are ignored, or aren't Python's
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            before(*caught[-1])
