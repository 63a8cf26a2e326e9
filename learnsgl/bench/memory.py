"""`learnsgl bench memory`: what each process of an idle server takes, and where the time of its start goes.

It starts `learnsgl serve` as a user would, asks it one question, looks at its processes from outside, and reads the
start-up's phases from its recording.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from learnsgl.bench.report import load
from learnsgl.demo.child import DemoServer
from learnsgl.errors import ServingError
from learnsgl.ps.find import find_servers
from learnsgl.trace import events
from learnsgl.trace.reader import Trace

Tell = Callable[[str], None]
SETTLE_S = 1.0
"""The server idles so long before it is looked at."""


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        model: as `--model` takes it.
        repeats: how often the server is started.
        options: more options of `learnsgl serve`.
    """

    model: str
    repeats: int
    options: list[str]


class ProcessMemory(msgspec.Struct, frozen=True):
    """One process, in bytes.

    Attributes:
        name, role: as the server names it.
        rss_bytes: resident, with what it shares with other processes.
        pss_bytes: resident, what it shares divided among those that share it; `None` where the system doesn't tell.
        uss_bytes: what would come back if it ended.
        num_threads: its threads.
        has_torch: whether torch's library is mapped into it.
    """

    name: str
    role: str
    rss_bytes: int
    pss_bytes: int | None
    uss_bytes: int | None
    num_threads: int
    has_torch: bool


class Phase(msgspec.Struct, frozen=True):
    """A part of the start-up.

    Attributes:
        process: who did it.
        phase: what, as in `process.phase`.
        start_s: when it began, since the command was given.
        duration_s: how long it took.
    """

    process: str
    phase: str
    start_s: float
    duration_s: float


class Start(msgspec.Struct):
    """One server.

    Attributes:
        ready_s: from the command to the line that says ready.
        load: processes that wanted a core in the minute before.
        idle: its processes when it was ready and had idled.
        after_request: the same after one request.
        phases: in the order in which they began.
    """

    ready_s: float
    load: float
    idle: list[ProcessMemory]
    after_request: list[ProcessMemory]
    phases: list[Phase]


def measure(settings: Settings, tell: Tell) -> list[Start]:
    """Start the server again and again.

    Raises:
        StartupError, ServingError: it doesn't start, answer or end.
    """
    starts = []
    for number in range(1, settings.repeats + 1):
        tell(f"start {number} of {settings.repeats}")
        starts.append(_one_start(settings))
    return starts


def _one_start(settings: Settings) -> Start:
    with tempfile.TemporaryDirectory(prefix="learnsgl-bench-") as temp:
        runs = Path(temp) / "runs"
        options = ["--model", settings.model, "--port", "0", "--trace", str(runs), *settings.options]
        load_before = load()
        with DemoServer(options, Path(temp) / "log") as server:
            begin_ns = time.monotonic_ns()
            server.start()
            server.wait_ready()
            ready_ns = time.monotonic_ns()
            time.sleep(SETTLE_S)
            idle = memory_of(server.url)
            _ask(server.url)
            time.sleep(SETTLE_S)
            after_request = memory_of(server.url)
            server.stop()
        return Start((ready_ns - begin_ns) / 1e9, load_before, idle, after_request, phases_of(runs, begin_ns))


def memory_of(url: str) -> list[ProcessMemory]:
    """What the processes of the server at `url` take, the parent first.

    Raises:
        ServingError: there is no such server.
    """
    found = next((one for one in find_servers() if one.facts.url == url), None)
    if found is None:
        raise ServingError(f"no server at {url} can be found; see learnsgl ps")
    return [_memory(process.name, process.role, psutil.Process(process.pid)) for process in found.facts.processes]


def _memory(name: str, role: str, process: psutil.Process) -> ProcessMemory:
    memory = process.memory_full_info()
    mapped = [Path(item.path).name for item in process.memory_maps()] if hasattr(process, "memory_maps") else []
    return ProcessMemory(
        name=name, role=role, rss_bytes=int(memory.rss), pss_bytes=getattr(memory, "pss", None),
        uss_bytes=getattr(memory, "uss", None), num_threads=int(process.num_threads()),
        has_torch=any(path.startswith("libtorch") for path in mapped),
    )  # fmt: skip


def _ask(url: str) -> None:
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    try:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        headers = {"Content-Type": "application/json"}
        connection.request("GET", "/v1/models")
        body["model"] = json.loads(connection.getresponse().read())["data"][0]["id"]
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ServingError(f"the server answered {response.status}: {answer.decode(errors='replace')[:500]}")


def phases_of(runs: Path, begin_ns: int) -> list[Phase]:
    """The phases of the start-up in the newest recording under `runs`, since `begin_ns` of the monotonic clock."""
    trace = Trace.open(runs)
    found = []
    for name in trace.processes:
        for entry in trace.events(name):
            event = entry.event
            if isinstance(event, events.ProcessPhase):
                start_s, duration_s = (event.start_ns - begin_ns) / 1e9, (event.ns - event.start_ns) / 1e9
                found.append(Phase(name, event.phase, round(start_s, 4), round(duration_s, 4)))
            elif isinstance(event, events.ProcessStarted) and name == "api":
                found.append(Phase(name, "python_and_imports", 0.0, round((event.ns - begin_ns) / 1e9, 4)))
    return sorted(found, key=lambda phase: (phase.start_s, -phase.duration_s))
