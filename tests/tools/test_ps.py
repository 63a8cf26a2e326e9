"""`learnsgl ps`: a real server's processes, dead servers' remains, and what is shown of both."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learnsgl import cli
from learnsgl.ps import find, look
from learnsgl.ps.find import Found, find_servers
from learnsgl.ps.look import ProcessView, ServerView, ask_health, look_at
from learnsgl.ps.show import duration, show_server, size
from learnsgl.server.run_file import RUN_FILE, ProcessFacts, RunFacts, RunFile, read_run_file
from tests.server.running import RunningServer

CHILDREN = [SimpleNamespace(name="scheduler-0", role="scheduler", pid=2**22 + 5)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("home"))
    try:
        assert running.url, running.log
        yield running
    finally:
        running.close()


def ps_json(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert cli.main(["ps", "--json"]) == 0
    servers: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return servers


# ---------------------------------------------------------------- a real server


@pytest.mark.skipif(sys.platform != "linux", reason="the tests' servers have a temporary folder of their own")
def test_a_running_server_is_shown_with_all_its_processes(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = [one for one in ps_json(capsys) if one["url"] == server.url]
    assert (shown["model"], shown["health"], shown["num_running"]) == ("tiny-random", "ok", 0)
    assert shown["device"]
    assert Path(shown["trace_folder"]) == server.trace_folder.resolve()
    assert shown["trace_bytes"] > 0
    processes = {process["name"]: process for process in shown["processes"]}
    assert {"api", "scheduler-0", "tokenizer-0", "detokenizer"} <= processes.keys()
    assert processes["api"]["pid"] == server.process.pid
    assert processes["api"]["listens"] == [server.url.removeprefix("http://")]
    for name in ("scheduler-0", "tokenizer-0", "detokenizer"):
        assert processes[name]["pid"] == server.workers()[name].pid
        assert [channel.startswith(processes[name]["role"]) for channel in processes[name]["channels"]] == [True]
    assert all(process["is_alive"] and process["rss_bytes"] > 0 for process in processes.values())


@pytest.mark.skipif(sys.platform != "linux", reason="the tests' servers have a temporary folder of their own")
def test_a_killed_server_is_not_shown_and_leaves_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    running = RunningServer(tmp_path, tmp_path_factory.mktemp("home"))
    try:
        assert running.url in [one["url"] for one in ps_json(capsys)]
        running.signal(signal.SIGKILL)
        running.wait()
        assert running.url not in [one["url"] for one in ps_json(capsys)]
        assert running.left_behind() == []
    finally:
        running.close()


# ---------------------------------------------------------------- run files


def test_a_run_file_is_found_while_its_writer_lives(tmp_path: Path) -> None:
    folder = tmp_path / "learnsgl-abc"
    folder.mkdir()
    run_file = RunFile(folder)
    assert find_servers(tmp_path) == [], "it hasn't said anything yet"
    run_file.starting("http://127.0.0.1:8000", "m", tmp_path / "traces", CHILDREN)
    (found,) = find_servers(tmp_path)
    assert not found.facts.is_ready
    assert [process.name for process in found.facts.processes] == ["api", "scheduler-0"]
    assert found.facts.processes[0].pid == os.getpid()
    run_file.ready("cpu (1 thread)", "float32")
    (found,) = find_servers(tmp_path)
    assert (found.facts.is_ready, found.facts.device) == (True, "cpu (1 thread)")
    assert find_servers(tmp_path) == [found], "looking changes nothing"
    run_file.close()
    assert find_servers(tmp_path) == []


def test_the_remains_of_a_killed_server_are_removed(tmp_path: Path) -> None:
    dead, other = tmp_path / "learnsgl-dead", tmp_path / "learnsgl-other"
    for folder in (dead, other):
        folder.mkdir()
        run_file = RunFile(folder)
        run_file.starting("http://127.0.0.1:8000", "m", None, CHILDREN)
        run_file.close()
        (folder / "api.ipc").touch()
    (other / "diary.txt").write_text("mine")
    (tmp_path / "learnsgl-new").mkdir()
    assert find_servers(tmp_path) == []
    assert not dead.exists()
    assert (other / "diary.txt").exists(), "a folder with foreign files isn't a server's"
    assert (tmp_path / "learnsgl-new").exists(), "a server that just starts has no run file yet"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "url": 3}'])
def test_a_run_file_of_another_kind_is_passed_over(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "learnsgl-abc"
    folder.mkdir()
    (folder / RUN_FILE).write_text(text)
    assert read_run_file(folder) is None
    assert find_servers(tmp_path) == []
    assert folder.exists()


def test_a_full_disk_does_not_stop_a_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "learnsgl-abc"
    folder.mkdir()
    run_file = RunFile(folder)
    (folder / "server.new").mkdir()  # can't be written
    run_file.starting("http://127.0.0.1:8000", "m", None, CHILDREN)
    assert "learnsgl ps won't see this server" in caplog.text
    run_file.close()


def test_another_users_folder_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "learnsgl-abc"
    folder.mkdir()
    run_file = RunFile(folder)
    run_file.starting("http://127.0.0.1:8000", "m", None, CHILDREN)
    monkeypatch.setattr(find.os, "getuid", lambda: folder.stat().st_uid + 1)
    assert find_servers(tmp_path) == []
    run_file.close()


# ---------------------------------------------------------------- what is told of them


def facts(url: str = "http://127.0.0.1:1", *, is_ready: bool = False) -> RunFacts:
    mine = ProcessFacts("api", "api", os.getpid())
    gone = ProcessFacts("scheduler-0", "scheduler", 2**22 + 5)  # beyond any process id
    return RunFacts(started_s=100.0, is_ready=is_ready, url=url, model="m", processes=(mine, gone))


def test_a_process_that_is_gone_is_told_as_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "CPU_SAMPLE_S", 0.0)
    view = look_at(Found(tmp_path, facts()), now_s=163.0)
    assert (view.health, view.uptime_s, view.trace_bytes) == ("starting", 63.0, None)
    assert [process.is_alive for process in view.processes[:2]] == [True, False]
    lines = show_server(view).splitlines()
    assert "up 1 min 3 s" in lines[0]
    assert "no trace" in lines[1]
    assert lines[4].split()[1:] == ["scheduler-0", str(2**22 + 5), "gone"]


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "HEALTH_TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert ask_health(f"http://127.0.0.1:{port}") == ("no answer within 0.05 s", None)
    health, _ = ask_health(f"http://127.0.0.1:{port}")
    assert health.startswith("no answer (ConnectionRefusedError")


def test_no_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(find, "find_servers", list)
    assert cli.main(["ps"]) == 0
    assert capsys.readouterr().out == "no server is running; start one with: learnsgl serve\n"
    assert ps_json(capsys) == []


def test_the_tree() -> None:
    processes = [
        ProcessView("api", "api", 10, True, 70_000_000, 44_000_000, 1.4, 3, ["127.0.0.1:8000"], 2, ["api"]),
        ProcessView("scheduler-0", "scheduler", 11, True, 1_200_000_000, None, 99.6, 5, [], 0, ["scheduler-0"]),
        ProcessView("detokenizer", "detokenizer", 12),
    ]
    view = ServerView("http://h:1", "m", "cpu", "float32", "ok", 2, 7, "traces/x", 1_500_000, "s", processes)
    assert show_server(view) == (
        "http://h:1/v1 · m · cpu, float32 · up 7 s · health: ok, 2 running\n"
        "  trace: traces/x (2 MB)\n"
        "  process         pid  memory  unique   cpu  threads  sockets\n"
        "  api              10   70 MB   44 MB    1%        3  tcp 127.0.0.1:8000, 2 clients, ipc api\n"
        "  ├─ scheduler-0   11  1.2 GB          100%        5  ipc scheduler-0\n"
        "  └─ detokenizer   12    gone"
    )


def test_durations_and_sizes() -> None:
    assert [duration(s) for s in (0, 59, 60, 3661, 90000)] == ["0 s", "59 s", "1 min", "1 h 1 min", "1 d 1 h"]
    assert [size(n) for n in (0, 12_345, 5_400_000, 2_500_000_000)] == ["0 kB", "12 kB", "5 MB", "2.5 GB"]
