"""What a server holds: memory, file descriptors and threads of each process, and pages of the KV cache."""

from __future__ import annotations

from typing import NamedTuple

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

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


class Pages(NamedTuple):
    """What of the KV cache is held.

    Attributes:
        num_pages: pages that there are.
        num_running: of these, pages that running requests hold.
        num_cached: pages that only the prefix cache holds.
    """

    num_pages: int
    num_running: int
    num_cached: int


def pages_of(server: RunningServer) -> Pages:
    """The pages, as the server's metrics tell."""
    page = httpx.get(f"{server.url}/metrics").text
    values = {s.name: s.value for family in text_string_to_metric_families(page) for s in family.samples}
    num_pages = int(values["learnsgl:num_pages"])
    num_running = round(values["vllm:kv_cache_usage_perc"] * num_pages)
    return Pages(num_pages, num_running, int(values["learnsgl:num_cached_pages"]))


def check_flat(before: dict[str, Usage], after: dict[str, Usage], more_mb: float) -> None:
    """Nothing has leaked: as many descriptors and threads as before, and hardly more memory."""
    for name, then in before.items():
        now = after[name]
        assert now.num_fds <= then.num_fds, f"{name}: {then} before, {now} after"
        assert now.num_threads <= then.num_threads, f"{name}: {then} before, {now} after"
        assert now.rss_mb - then.rss_mb < more_mb, f"{name}: {then} before, {now} after"
