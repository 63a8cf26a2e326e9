"""Recording a running server for a while: twice, under load, and what is refused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from learnsgl.trace import events
from learnsgl.trace.manifest import read_manifest
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.server.conftest import Starter
from tests.server.running import MODEL, RunningServer

OFF = ("--trace-level", "off")


def ask(server: RunningServer, prompt: str, **fields: object) -> str:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8} | fields
    text = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    return str(text)


@contextlib.contextmanager
def under_load(server: RunningServer) -> Iterator[None]:
    """Two clients ask again and again; each must always get its answer."""
    stop = threading.Event()

    def load(client: httpx.Client, number: int) -> int:
        count = 0
        while not stop.is_set():
            body = {"model": MODEL, "prompt": f"ABCDEFGH{number}", "max_tokens": 20}
            answer = client.post("/v1/completions", json=body).json()
            assert len(answer["choices"][0]["text"]) == 20
            count += 1
        return count

    with server.http() as client, ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(load, client, number) for number in range(2)]
        try:
            yield
        finally:
            stop.set()
        assert all(one.result() for one in clients)


def record_twice(server: RunningServer) -> list[Path]:
    """At level full, then at level steps."""
    folders = []
    with server.http() as client:
        assert client.get("/trace/status").json()["recording"] is False
        for level in ("full", "steps"):
            begun = client.post("/trace/start", json={"level": level}).json()
            assert (begun["recording"], begun["level"]) == (True, level)
            again = client.post("/trace/start")
            assert (again.status_code, again.json()["error"]["code"]) == (409, "recording")
            for number in range(6):
                ask(server, f"XYZ{number}")
            ended = client.post("/trace/stop").json()
            assert (ended["recording"], ended["path"]) == (False, begun["path"])
            folders.append(Path(begun["path"]))
        assert client.post("/trace/stop").json()["error"]["code"] == "not_recording"
    return folders


def test_a_running_server_is_recorded_for_a_while_under_load(start: Starter) -> None:
    server = start(*OFF, "--seed", "3")
    assert not server.trace_root.exists() or not list(server.trace_root.iterdir())
    with under_load(server):
        folders = record_twice(server)
    ask(server, "after it")
    server.process.terminate()
    assert server.wait() == 0, server.log
    assert read_manifest(folders[0])["state"] == "stopped"
    trace = Trace.open(folders[0])
    assert set(trace.processes) == {"api", "tokenizer-0", "scheduler-0", "detokenizer"}
    kinds = {type(entry.event) for entry in trace.events("scheduler-0")}
    assert {events.TraceKeyframe, events.SchedStep, events.SchedCommitted} <= kinds
    assert sum(isinstance(e.event, events.ReqEnded) for e in trace.events("api")) >= 6
    for folder in folders:
        report = verify(Trace.open(folder))
        assert report.proved


def test_a_recording_goes_on_to_the_end_of_the_server(start: Starter) -> None:
    server = start(*OFF, "--num-tokenizer", "0")
    ask(server, "before it")
    path = Path(httpx.post(f"{server.url}/trace/start").json()["path"])
    ask(server, "ABC")
    server.process.terminate()
    assert server.wait() == 0
    assert read_manifest(path)["state"] == "ended"
    trace = Trace.open(path)
    verify(trace)
    (received,) = [e.event for e in trace.events("api") if isinstance(e.event, events.HttpReceived)]
    assert received.uid == 2
    assert all(b"before it" not in file.read_bytes() and b"ABC" not in file.read_bytes() for file in path.iterdir())


def test_a_recording_from_the_start_can_be_ended(start: Starter) -> None:
    server = start("--num-tokenizer", "0")
    ask(server, "ABC")
    assert httpx.post(f"{server.url}/trace/stop").json()["level"] == "full"
    ask(server, "DEF")
    server.process.terminate()
    assert server.wait() == 0
    verify(Trace.open(server.trace_folder))


def test_what_is_refused(start: Starter) -> None:
    server = start(*OFF, "--num-tokenizer", "0")
    with server.http() as client:
        tokens = client.post("/trace/start", json={"level": "tokens"})
        assert (tokens.status_code, tokens.json()["error"]["param"]) == (400, "level")
        page = client.post("/trace/start", headers={"Origin": "http://a.example"})
        assert (page.status_code, page.json()["error"]["code"]) == (403, "cross_origin")
        assert client.post("/trace/start", json={"path": "x"}).json()["error"]["code"] == "unknown_parameter"
    assert not server.trace_root.exists() or not list(server.trace_root.iterdir())
