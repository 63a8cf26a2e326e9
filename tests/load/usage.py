"""What a server's processes hold of the machine: memory, file descriptors and threads."""

from __future__ import annotations

from typing import NamedTuple

import psutil

from tests.server.running import RunningServer


class Usage(NamedTuple):
    """What one process holds.

    Attributes:
        rss_mb: resident memory, in MB.
        num_fds: open file descriptors.
        num_threads: threads.
    """

    rss_mb: float
    num_fds: int
    num_threads: int


def usage_of(server: RunningServer) -> dict[str, Usage]:
    """What each process holds now, by its name."""
    processes = {"api": psutil.Process(server.process.pid)} | server.workers()
    return {
        name: Usage(process.memory_info().rss / 1e6, process.num_fds(), process.num_threads())
        for name, process in processes.items()
    }


def check_flat(before: dict[str, Usage], after: dict[str, Usage], more_mb: float) -> None:
    """Nothing has leaked: as many descriptors and threads as before, and hardly more memory."""
    for name, then in before.items():
        now = after[name]
        assert now.num_fds <= then.num_fds, f"{name}: {then} before, {now} after"
        assert now.num_threads <= then.num_threads, f"{name}: {then} before, {now} after"
        assert now.rss_mb - then.rss_mb < more_mb, f"{name}: {then} before, {now} after"
