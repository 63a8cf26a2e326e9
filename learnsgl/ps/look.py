"""What the system tells of a server's processes, and what the server answers when it is asked for its health."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from learnsgl.ps.find import Found
from learnsgl.server.run_file import RunFacts

CPU_SAMPLE_S = 0.25
HEALTH_TIMEOUT_S = 2.0
_HELPER = "multiprocessing.resource_tracker"


@dataclass
class ProcessView:
    """One process of a server.

    Attributes:
        role: as the server names it; `helper` for a process that Python started by itself.
        is_alive: whether it still runs, and can be seen from here.
        rss_bytes: memory that it has in use, with what it shares.
        unique_bytes: memory that would come back if it ended (USS); `None` where the system doesn't tell.
        cpu_percent: of one core, over a quarter of a second.
        listens: TCP addresses on which it takes connections.
        num_clients: TCP connections that are open to these.
        channels: the ZMQ channels that it receives from, by the names of their sockets.
    """

    name: str
    role: str
    pid: int
    is_alive: bool = False
    rss_bytes: int = 0
    unique_bytes: int | None = None
    cpu_percent: float = 0.0
    num_threads: int = 0
    listens: list[str] = field(default_factory=list)
    num_clients: int = 0
    channels: list[str] = field(default_factory=list)


@dataclass
class ServerView:
    """A running server.

    Attributes:
        health: what it answers: `ok`, `starting`, or why it isn't well.
        num_running: requests that it works on; `None` where it doesn't say.
        uptime_s: seconds since it was started.
        trace_bytes: size of the recording so far.
        processes: the parent first.
    """

    url: str
    model: str
    device: str
    dtype: str
    health: str
    num_running: int | None
    uptime_s: float
    trace_folder: str | None
    trace_bytes: int | None
    socket_folder: str
    processes: list[ProcessView]


def look_at(found: Found, *, now_s: float | None = None) -> ServerView:
    """Everything about one running server; takes a quarter of a second."""
    facts = found.facts
    processes = _look_at_processes(found)
    health, num_running = ask_health(facts.url) if facts.is_ready else ("starting", None)
    trace = Path(facts.trace_folder) if facts.trace_folder else None
    return ServerView(
        url=facts.url, model=facts.model, device=facts.device, dtype=facts.dtype, health=health,
        num_running=num_running, uptime_s=_uptime_s(facts, now_s),
        trace_folder=facts.trace_folder, trace_bytes=_size_of(trace) if trace else None,
        socket_folder=str(found.folder), processes=processes,
    )  # fmt: skip


def _uptime_s(facts: RunFacts, now_s: float | None) -> float:
    if facts.started_ns is not None and now_s is None:
        return (time.monotonic_ns() - facts.started_ns) / 1e9
    return max(0.0, (time.time() if now_s is None else now_s) - facts.started_s)


def ask_health(url: str) -> tuple[str, int | None]:
    """What `GET /health` answers: `ok`, or what is wrong; and how many requests run.

    Asked directly, whatever proxies there are.
    """
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        body = json.loads(response.read())
    except TimeoutError:
        return f"no answer within {HEALTH_TIMEOUT_S:g} s", None
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no answer ({type(error).__name__}: {error})", None
    finally:
        connection.close()
    if response.status == http.client.OK:
        return "ok", body.get("num_running")
    return f"{response.status}: {body.get('error', {}).get('message', 'no reason given')}", None


def _look_at_processes(found: Found) -> list[ProcessView]:
    views = [ProcessView(process.name, process.role, process.pid) for process in found.facts.processes]
    seen = {view.pid: process for view in views if (process := _open(view.pid)) is not None}
    parent = seen.get(views[0].pid)
    for child in _children(parent):
        if child.pid not in {view.pid for view in views}:
            views.append(ProcessView(_helper_name(child), "helper", child.pid))
            seen[child.pid] = child
    for process in seen.values():
        _cpu_percent(process)  # the first call begins the measurement
    time.sleep(CPU_SAMPLE_S)
    for view in views:
        if view.pid in seen:
            _fill(view, seen[view.pid], found.folder)
    return views


def _open(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:  # it has ended, or lives in another container
        return None


def _children(parent: psutil.Process | None) -> list[psutil.Process]:
    try:
        return [] if parent is None else list(parent.children(recursive=True))
    except psutil.Error:
        return []


def _helper_name(process: psutil.Process) -> str:
    try:
        return "resource-tracker" if any(_HELPER in word for word in process.cmdline()) else str(process.name())
    except psutil.Error:
        return "unknown"


def _cpu_percent(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent(None))
    except psutil.Error:
        return 0.0


def _fill(view: ProcessView, process: psutil.Process, folder: Path) -> None:
    """Read what the system tells of a process; one that ends meanwhile stays as it is."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return
        view.cpu_percent = _cpu_percent(process)
        view.rss_bytes = int(process.memory_info().rss)
        view.num_threads = int(process.num_threads())
        view.is_alive = True
        view.unique_bytes = int(process.memory_full_info().uss)
        _fill_sockets(view, process, folder)
    except psutil.Error:
        return


def _fill_sockets(view: ProcessView, process: psutil.Process, folder: Path) -> None:
    channels = {Path(link.laddr) for link in process.net_connections("unix") if isinstance(link.laddr, str)}
    view.channels = sorted(path.stem for path in channels if path.parent == folder)
    ports = set()
    links = process.net_connections("tcp")
    for link in links:
        if link.status == psutil.CONN_LISTEN:
            view.listens.append(f"{link.laddr.ip}:{link.laddr.port}")
            ports.add(link.laddr.port)
    view.num_clients = sum(link.status == psutil.CONN_ESTABLISHED and link.laddr.port in ports for link in links)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
