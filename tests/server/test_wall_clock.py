"""The wall clock jumps by hours under a running server: nothing changes but what it tells people of dates."""

from __future__ import annotations

import ast
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import learnsgl
from learnsgl.ps.find import Found
from learnsgl.ps.look import look_at
from learnsgl.server.run_file import read_run_file
from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import echo
from tests.server.running import RunningServer
from tests.server.test_life import FEW, Caller

HOUR_S = 3600
SERVER_ROOMS = (
    "server", "message", "tokenizer", "scheduler", "kvcache", "engine", "attention", "models", "trace", "offline",
)  # fmt: skip
FOR_PEOPLE = {
    "server/api_server.py": "`created` of an answer",
    "server/launch.py": "`created` of the model's card",
    "server/run_file.py": "when the server was started, for `learnsgl ps`",
    "trace/clock.py": "the anchor by which readers show dates",
    "trace/manifest.py": "when the run was started: the anchor's, as a date",
}
"""The only files of the server that look at the wall clock, and what for."""


class WallClock:
    """The wall clock of processes that are started with its library.

    Args:
        folder: for the library and the file with the offset.
    """

    def __init__(self, folder: Path) -> None:
        self.library = folder / "wall_clock.so"
        self.file = folder / "offset"
        self.jump_to(0)
        source = Path(__file__).with_name("wall_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(self.library), str(source)], check=True)

    def jump_to(self, offset_s: int) -> None:
        """From now on it is so many seconds ahead of this machine's."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:  # never cut off: it is mapped
            file.write(struct.pack("q", offset_s))


@pytest.fixture
def wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("needs LD_PRELOAD and a C compiler")
    clock = WallClock(tmp_path)
    monkeypatch.setenv("LD_PRELOAD", str(clock.library))
    monkeypatch.setenv("WALL_CLOCK_OFFSET", str(clock.file))
    return clock


def created_s(server: RunningServer) -> int:
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny-random", "prompt": "AB", "max_tokens": 3})
    assert answer.json()["choices"][0]["text"] == "ABA"
    return int(answer.json()["created"])


def test_hours_forward_and_back_change_nothing_but_dates(start: Starter, wall: WallClock) -> None:
    server = start(
        "--seed", "10", *FEW, "--worker-timeout-s", "4", "--step-timeout-s", "8", "--request-timeout", "60",
        "--trace-segment-bytes", "4096",
    )  # fmt: skip
    caller = Caller(server, 240)
    assert caller.first_chunk.wait(20)
    for offset_s in (5 * HOUR_S, -7 * HOUR_S, 24 * HOUR_S, 0):
        wall.jump_to(offset_s)
        assert abs(created_s(server) - time.time() - offset_s) < 60
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    caller.join(30)
    assert (caller.text, caller.error) == (echo("ABC", 240), None)
    server.process.terminate()
    assert server.wait() == 0, server.log
    moments = [entry.event.ns for entry in check_trace(server).events("api")]
    assert moments == sorted(moments)
    assert max(moments) - min(moments) < HOUR_S * 10**9, "and so is every time that is made of them"
    durations = [float(line.rpartition(", ")[2].split()[0]) for line in server.log.splitlines() if " ended: " in line]
    assert len(durations) == 5
    assert all(0 <= seconds < HOUR_S for seconds in durations)


def test_recordings_and_drains_keep_their_times(start: Starter, wall: WallClock) -> None:
    server = start("--seed", "10", *FEW, "--trace-level", "off", "--drain-timeout-s", "60")
    with server.http() as client:
        path = Path(client.post("/trace/start").json()["path"])
        wall.jump_to(-9 * HOUR_S)
        created_s(server)
        assert 0 <= client.get("/trace/status").json()["seconds"] < HOUR_S
        folder = Path(server.socket_addresses()[0].removeprefix("ipc://")).parent
        facts = read_run_file(folder)
        assert facts is not None
        assert 0 < look_at(Found(folder, facts)).uptime_s < HOUR_S
        assert client.post("/trace/stop").json()["pending"] == []
    verify(Trace.open(path))
    assert any(isinstance(entry.event, events.ReqEnded) for entry in Trace.open(path).events("api"))
    caller = Caller(server, 150)
    assert caller.first_chunk.wait(20)
    server.process.terminate()
    wall.jump_to(9 * HOUR_S)
    assert server.wait() == 0, server.log
    caller.join(5)
    assert caller.text == echo("ABC", 150), "the time to drain has not run out"


def looks_at_wall_clock(path: Path) -> bool:
    names = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "fromtimestamp", "strftime"}
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in names
        and isinstance(node.value, ast.Name)
        and node.value.id in ("time", "datetime", "date")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_the_server_looks_at_the_wall_clock_for_people_only() -> None:
    package = Path(learnsgl.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for room in SERVER_ROOMS
        for path in (package / room).rglob("*.py")
        if looks_at_wall_clock(path)
    }
    assert found == set(FOR_PEOPLE), "time passes on time.monotonic; the wall clock can jump"
