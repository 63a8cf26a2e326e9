"""What `make soak` has measured: as a file, and as the table in docs/soak.md that is made of it."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from learnsgl.trace.verify import Report
from tests.load.usage import Pages, Usage, pages_of, usage_of
from tests.server.running import RunningServer


@dataclass
class Soak:
    """One test of the soak.

    Attributes:
        name: of the test.
        started: date and time in UTC.
        machine: what it ran on.
        options: of the server.
        num_requests: requests between the two looks.
        seconds: time between the two looks.
        before, after: what each process held while nothing ran, by its name.
        pages_before, pages_after: likewise, of the KV cache.
        verified: what `learnsgl trace verify` proved of the recording, line by line.
    """

    name: str
    options: tuple[str, ...]
    num_requests: int = 0
    seconds: float = 0.0
    before: dict[str, Usage] = field(default_factory=dict)
    after: dict[str, Usage] = field(default_factory=dict)
    pages_before: Pages | None = None
    pages_after: Pages | None = None
    verified: list[str] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))
    machine: str = field(default_factory=lambda: f"{os.cpu_count()} cores, {platform.system()} {platform.release()}")

    def look(self, server: RunningServer, num_requests: int | None = None) -> None:
        """Look at a server on which nothing runs: the first time before the load, and, with its requests, after it."""
        now = time.monotonic()
        assert httpx.post(f"{server.url}/flush_cache").is_success  # the cache may hold what it likes
        if num_requests is None:
            self.before, self.pages_before, self.seconds = usage_of(server), pages_of(server), -now
            return
        self.after, self.pages_after = usage_of(server), pages_of(server)
        self.num_requests, self.seconds = num_requests, round(now + self.seconds, 1)

    def write(self, folder: Path | None, report: Report) -> None:
        """Write it into a folder, where one is given."""
        self.verified = [*report.proved, *report.notes]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            facts: dict[str, Any] = asdict(self) | {"before": _plain(self.before), "after": _plain(self.after)}
            assert self.pages_before is not None
            assert self.pages_after is not None
            facts |= {"pages_before": self.pages_before._asdict(), "pages_after": self.pages_after._asdict()}
            (folder / f"{self.name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _plain(usage: dict[str, Usage]) -> dict[str, Any]:
    return {name: one._asdict() for name, one in usage.items()}


def table(facts: dict[str, Any]) -> str:
    """The table of docs/soak.md, from a file that `Soak.write` has written."""
    lines = ["| process | resident memory, MB | file descriptors | threads |", "| --- | --- | --- | --- |"]
    for name, before in facts["before"].items():
        after = facts["after"][name]
        memory = f"{before['rss_mb']:.1f} → {after['rss_mb']:.1f}"
        counts = [f"{before[key]} → {after[key]}" for key in ("num_fds", "num_threads")]
        lines.append(f"| {name} | {memory} | {counts[0]} | {counts[1]} |")
    return "\n".join(lines)


def summary(facts: dict[str, Any]) -> str:
    """The sentence before the table."""
    held = facts["pages_after"]
    return (
        f"`make soak`, {facts['started']}, {facts['machine']}: {facts['num_requests']:,} requests in "
        f"{facts['seconds']:,.0f} s; afterwards requests hold {held['num_running']} of {held['num_pages']:,} pages, "
        f"and the emptied cache {held['num_cached']}."
    )
