"""The tree of servers and processes for the terminal."""

from __future__ import annotations

from learnsgl.ps.look import ProcessView, ServerView

_HEAD = ("process", "pid", "memory", "unique", "cpu", "threads", "sockets")


def show_server(server: ServerView) -> str:
    """A server in a few lines: what it is and how it does, its trace, then its processes as a tree."""
    health = server.health if server.num_running is None else f"{server.health}, {server.num_running} running"
    device = f"{server.device}, {server.dtype}" if server.device else "device not chosen yet"
    words = (f"{server.url}/v1", server.model, device, f"up {duration(server.uptime_s)}", f"health: {health}")
    trace = "no trace (--trace DIR)"
    if server.trace_folder is not None and server.trace_bytes is not None:
        trace = f"trace: {server.trace_folder} ({size(server.trace_bytes)})"
    rows = [_HEAD, *_rows(server.processes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join([" · ".join(words), f"  {trace}", *(_line(row, widths) for row in rows)])


def _rows(processes: list[ProcessView]) -> list[tuple[str, ...]]:
    last = len(processes) - 1
    branches = ["" if index == 0 else "└─ " if index == last else "├─ " for index in range(len(processes))]
    return [_row(branch, process) for branch, process in zip(branches, processes, strict=True)]


def _row(branch: str, process: ProcessView) -> tuple[str, ...]:
    name = branch + process.name
    if not process.is_alive:
        return name, str(process.pid), "gone", "", "", "", ""
    unique = "" if process.unique_bytes is None else size(process.unique_bytes)
    sockets = [f"tcp {address}" for address in process.listens]
    if process.num_clients:
        sockets.append(f"{process.num_clients} client{'s' if process.num_clients > 1 else ''}")
    sockets += [f"ipc {channel}" for channel in process.channels]
    return (
        name, str(process.pid), size(process.rss_bytes), unique, f"{process.cpu_percent:.0f}%",
        str(process.num_threads), ", ".join(sockets),
    )  # fmt: skip


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        text.ljust(width) if column in (0, len(row) - 1) else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return ("  " + "  ".join(cells)).rstrip()


def duration(seconds: float) -> str:
    """Seconds for people: `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, parts = int(seconds), []
    for name, length in units:
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"


def size(num_bytes: int) -> str:
    """Bytes for people: `12 kB`, `540 MB`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}" if unit == "GB" else f"{num_bytes / factor:.0f} {unit}"
    return f"{num_bytes / 1000:.0f} kB"
