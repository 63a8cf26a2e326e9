"""Recording a running server for a while: twice, under load, and what is refused."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from learnsgl.server.run_file import read_run_file
from learnsgl.trace import events
from learnsgl.trace.manifest import read_manifest
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import follow
from learnsgl.trace.verify import verify
from tests.server.conftest import Starter
from tests.server.running import MODEL, RunningServer

OFF = ("--trace-level", "off")
PROCESSES = ("api", "tokenizer-0", "scheduler-0", "detokenizer")


def ask(server: RunningServer, prompt: str, **fields: object) -> str:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8} | fields
    text = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    return str(text)


@contextlib.contextmanager
def under_load(server: RunningServer, num_clients: int = 8) -> Iterator[None]:
    """Clients ask again and again, half of them for streams; each must always get its answer."""
    stop = threading.Event()

    def load(number: int) -> int:
        count = 0
        body = {"model": MODEL, "prompt": f"ABCDEFGH{number}", "max_tokens": 20, "stream": number % 2 == 1}
        with server.http() as client:
            while not stop.is_set():
                answer = client.post("/v1/completions", json=body)
                if body["stream"]:
                    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
                else:
                    assert len(answer.json()["choices"][0]["text"]) == 20
                count += 1
        return count

    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(load, number) for number in range(num_clients)]
        try:
            yield
        finally:
            stop.set()
        assert all(one.result() for one in clients)


def sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in folder.glob("*.trace")}


def record(server: RunningServer, client: httpx.Client, level: str) -> Path:
    """Record a few requests. The recording is whole, and can be proved, when the answer is there."""
    begun = client.post("/trace/start", json={"level": level}).json()
    assert (begun["recording"], begun["level"], begun["pending"]) == (True, level, [])
    assert set(sizes(Path(begun["path"]))) == {f"{name}.1.trace" for name in PROCESSES}
    again = client.post("/trace/start")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "recording")
    for number in range(6):
        ask(server, f"XYZ{number}")
    ended = client.post("/trace/stop").json()
    folder = Path(ended["path"])
    before = sizes(folder)
    assert (ended["recording"], ended["path"], ended["pending"]) == (False, begun["path"], [])
    assert (ended["failing"], ended["lost_events"]) == ({}, 0)
    notes = verify(Trace.open(folder)).notes
    for name in PROCESSES:
        assert any(note.startswith(f"{name}: ") and "stopped while the server went on" in note for note in notes)
    assert sizes(folder) == before, "nothing is written after the answer"
    return folder


def test_a_running_server_is_recorded_for_a_while_under_load(start: Starter) -> None:
    server = start(*OFF, "--seed", "3")
    assert not server.trace_root.exists() or not list(server.trace_root.iterdir())
    with under_load(server), server.http() as client:
        assert client.get("/trace/status").json()["recording"] is False
        folders = [record(server, client, level) for level in ("full", "steps")]
        assert client.post("/trace/stop").json()["error"]["code"] == "not_recording"
        status = client.get("/trace/status").json()
        assert (status["recording"], status["pending"]) == (False, [])
    ask(server, "after it")
    server.process.terminate()
    assert server.wait() == 0, server.log
    assert read_manifest(folders[0])["state"] == "stopped"
    trace = Trace.open(folders[0])
    assert set(trace.processes) == set(PROCESSES)
    kinds = {type(entry.event) for entry in trace.events("scheduler-0")}
    assert {events.TraceKeyframe, events.SchedStep, events.SchedCommitted} <= kinds
    assert sum(isinstance(e.event, events.ReqEnded) for e in trace.events("api")) >= 6
    assert len(list(follow(trace, None))) == trace.num_events, "there is nothing to wait for"


def test_two_starts_at_once_make_one_recording(start: Starter) -> None:
    server = start(*OFF, "--num-tokenizer", "0")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{server.url}/trace/start", timeout=30), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert len(list(server.trace_root.iterdir())) == 1


def test_a_worker_that_is_late_is_named(start: Starter) -> None:
    server = start(*OFF, "--num-tokenizer", "0")
    name = "tokenizer-detokenizer"
    facts = read_run_file(Path(server.socket_addresses()[0].removeprefix("ipc://")).parent)
    assert facts is not None
    (worker,) = [psutil.Process(process.pid) for process in facts.processes if process.name == name]
    with server.http() as client:
        worker.suspend()
        begun = client.post("/trace/start").json()
        assert (begun["recording"], begun["pending"]) == (True, [name])
        assert client.get("/trace/status").json()["pending"] == [name]
        worker.resume()
        while client.get("/trace/status").json()["pending"]:
            time.sleep(0.01)
        ask(server, "ABC")
        assert client.post("/trace/stop").json()["pending"] == []
    assert name in server.log
    verify(Trace.open(Path(begun["path"])))


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


def test_calls_beside_requests_are_recorded_and_a_recording_from_the_start_can_be_ended(start: Starter) -> None:
    server = start("--num-tokenizer", "0")
    ask(server, "ABC")
    with server.http() as client:
        answers = [
            client.post("/tokenize", json={"prompt": "ABC"}),
            client.get("/version"),
            client.post("/flush_cache"),
        ]
        assert client.post("/detokenize", json={"tokens": "no"}).status_code == 400
    assert httpx.get(f"{server.url}/trace/status").json()["pending"] == []
    assert httpx.post(f"{server.url}/trace/stop").json()["level"] == "full"
    verify(Trace.open(server.trace_folder))
    ask(server, "DEF")
    server.process.terminate()
    assert server.wait() == 0
    trace = Trace.open(server.trace_folder)
    verify(trace)
    calls = [entry.event for entry in trace.events("api") if isinstance(entry.event, events.HttpCalled)]
    sizes = [len(answer.content) for answer in answers]
    assert [(call.route, call.answer_bytes) for call in calls] == list(
        zip(("/tokenize", "/version", "/flush_cache"), sizes, strict=True)
    )
    assert all(call.received_ns <= call.ns for call in calls)
    refused = [entry.event.route for entry in trace.events("api") if isinstance(entry.event, events.HttpRefused)]
    assert refused == ["/detokenize"]
    assert read_manifest(server.trace_folder)["state"] == "stopped"


def test_a_folder_that_cannot_be_made_is_an_answer(start: Starter) -> None:
    server = start(*OFF, "--num-tokenizer", "0")
    server.trace_root.write_text("a file is in the way")
    refused = httpx.post(f"{server.url}/trace/start")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "trace_folder")
    assert httpx.get(f"{server.url}/trace/status").json()["recording"] is False
    ask(server, "ABC")


def test_what_is_refused(start: Starter) -> None:
    server = start(*OFF, "--num-tokenizer", "0")
    with server.http() as client:
        tokens = client.post("/trace/start", json={"level": "tokens"})
        assert (tokens.status_code, tokens.json()["error"]["param"]) == (400, "level")
        page = client.post("/trace/start", headers={"Origin": "http://a.example"})
        assert (page.status_code, page.json()["error"]["code"]) == (403, "cross_origin")
        assert client.post("/trace/start", json={"path": "x"}).json()["error"]["code"] == "unknown_parameter"
    assert not server.trace_root.exists() or not list(server.trace_root.iterdir())
