"""One task of `learnsgl bench replay` in a process of its own, so that its peak memory is nobody else's.

`replay.py` starts it: `python -m learnsgl.bench.replay_task TASK FOLDER SEEKS`. It prints a JSON object.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import psutil  # type: ignore[import-untyped]

from learnsgl.replay.replay import Replay
from learnsgl.trace.fold import Fold
from learnsgl.trace.reader import Trace

EXPORT = "export-"
"""Begins the names of tasks that export; the format follows."""


class Measured(msgspec.Struct):
    """What a task took.

    Attributes:
        task: its name.
        took_s: seconds of each repeat.
        start_bytes: resident memory before it began, its imports done.
        peak_bytes: the most that was resident, where the system tells; else what was at the end.
        file_bytes: size of what it wrote; 0 where it wrote nothing.
    """

    task: str
    took_s: list[float]
    start_bytes: int
    peak_bytes: int
    file_bytes: int = 0


def _timed(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return round(time.perf_counter() - start_s, 6)


def _moments(replay: Replay, seeks: int) -> list[float]:
    rng = random.Random(0)
    return [rng.random() * replay.duration_s for _ in range(seeks)]


def _open(folder: Path, seeks: int) -> list[float]:
    return [_timed(lambda: Replay.open(folder)) for _ in range(seeks)]


def _first_visit(folder: Path, seeks: int) -> list[float]:
    """Random moments, each in a replay that has seen nothing."""
    took = []
    for time_s in _moments(Replay.open(folder), seeks):
        replay = Replay.open(folder)
        took.append(_timed(lambda replay=replay, time_s=time_s: replay.at(time_s=time_s)))  # type: ignore[misc]
    return took


def _again(folder: Path, seeks: int) -> list[float]:
    """Moments that were visited before, in another order; what the state shows is spelled out as well."""
    replay = Replay.open(folder)
    moments = _moments(replay, seeks)
    for time_s in moments:
        replay.at(time_s=time_s)
    random.Random(1).shuffle(moments)
    return [_timed(lambda time_s=time_s: _spell_out(replay, time_s)) for time_s in moments]  # type: ignore[misc]


def _spell_out(replay: Replay, time_s: float) -> None:
    state = replay.at(time_s=time_s)
    for part in (state.queue, state.running, state.tree, state.free_pages):
        if part is None:
            raise SystemExit(f"{time_s} s: the state isn't known")


def _messages(folder: Path, seeks: int) -> list[float]:
    return [_timed(lambda: Replay.open(folder).end().messages) for _ in range(max(1, seeks // 5))]


def _fold(folder: Path, seeks: int) -> list[float]:
    return [_timed(lambda: _fold_all(folder))]


def _fold_all(folder: Path) -> None:
    fold = Fold()
    for entry in Trace.open(folder).events("scheduler-0"):
        fold.apply(entry.event)
    fold.finish()


_TASKS = {"open": _open, "first-visit": _first_visit, "again": _again, "messages": _messages, "fold": _fold}
TASKS = tuple(_TASKS)


def run_task(task: str, folder: Path, seeks: int) -> Measured:
    """Do a task in this process."""
    if task.startswith(EXPORT):
        return _export(task, folder)
    start_bytes = int(psutil.Process().memory_info().rss)
    took_s = _TASKS[task](folder, seeks)
    return Measured(task, took_s, start_bytes, peak_bytes())


def _export(task: str, folder: Path) -> Measured:
    from learnsgl.export.formats import export_trace

    start_bytes = int(psutil.Process().memory_info().rss)
    sizes: list[int] = []
    with TemporaryDirectory(prefix="learnsgl-bench-") as temp:
        target = Path(temp) / "exported"
        took_s = _timed(lambda: sizes.append(export_trace(Trace.open(folder), task.removeprefix(EXPORT), target)))
    return Measured(task, [took_s], start_bytes, peak_bytes(), sizes[0])


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource  # counts what the parent had when it started this process, too
    except ImportError:
        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    measured = run_task(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")
