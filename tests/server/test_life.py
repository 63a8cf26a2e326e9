"""A server's start, its end, and what happens when a part of it dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import zmq

from learnsgl.config import Config
from learnsgl.errors import FolderError, ModelNotFoundError, OptionError, PortInUseError, StartupError, WorkerLostError
from learnsgl.message.codec import Envelope, encode_envelope, encode_messages
from learnsgl.message.types import AbortMsg, UserReply
from learnsgl.server.launch import launch_server
from learnsgl.server.port import bind_port, listen, url_of
from learnsgl.trace import events
from learnsgl.trace.manifest import read_manifest
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import echo
from tests.server.running import MODEL, RunningServer


class Caller(threading.Thread):
    """A client that waits for one streamed answer."""

    def __init__(self, server: RunningServer, max_tokens: int, stream: bool = True, prompt: str = "ABC") -> None:
        super().__init__(daemon=True)
        self.first_chunk = threading.Event()
        self.status = 0
        self.text = ""
        self.error: dict[str, str] | None = None
        self.ended_at = 0.0
        self._url = f"{server.url}/v1/completions"
        self._body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "stream": stream}
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=60) as answer:
            self.status = answer.status_code
            for line in answer.iter_lines():
                self.first_chunk.set()
                if line not in ("", "data: [DONE]"):
                    self._take(json.loads(line.removeprefix("data: ")))
        self.ended_at = time.monotonic()

    def _take(self, chunk: dict[str, object]) -> None:
        self.error = chunk.get("error", self.error)  # type: ignore[assignment]
        for choice in chunk.get("choices", []):  # type: ignore[attr-defined]
            self.text += choice["text"]


def endings(trace: Trace) -> dict[int, events.ReqEnded]:
    return {entry.event.uid: entry.event for entry in trace.events("api") if isinstance(entry.event, events.ReqEnded)}


def wait_running(server: RunningServer, num_running: int) -> None:
    """Wait until so many requests run: a thread that was started may take its time to ask."""
    deadline = time.monotonic() + 20
    while httpx.get(f"{server.url}/health").json()["num_running"] < num_running:
        assert time.monotonic() < deadline


FEW = ("--num-tokenizer", "0")  # a process less to start


def slow(start: Starter, *options: str) -> RunningServer:
    """A server whose steps take 20 ms: an answer of 200 tokens takes 4 s."""
    return start("--seed", "20", *options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(start: Starter, number: signal.Signals) -> None:
    server = slow(start)
    caller = Caller(server, 150)  # three seconds: time enough to be refused meanwhile, also on a busy machine
    assert caller.first_chunk.wait(20)
    server.signal(number)
    deadline = time.monotonic() + 5
    while (refused := httpx.get(f"{server.url}/health")).is_success:
        assert time.monotonic() < deadline
    assert refused.json()["error"]["code"] == "shutting_down"
    refused = httpx.post(f"{server.url}/generate", json={"text": "A"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert server.wait() == 0, server.log
    caller.join(5)
    assert (caller.text, caller.error) == (echo("ABC", 150), None)
    assert server.left_behind() == []
    assert endings(check_trace(server))[1].reason == "length"


def test_the_second_signal_ends_at_once(start: Starter) -> None:
    server = slow(start, *FEW)
    callers = [Caller(server, 250), Caller(server, 250)]
    assert all(caller.first_chunk.wait(20) for caller in callers)
    server.signal(signal.SIGINT)
    while httpx.get(f"{server.url}/health").is_success:
        pass
    server.signal(signal.SIGINT)
    assert server.wait() == 0, server.log
    for caller in callers:
        caller.join(5)
        assert caller.error is not None
        assert caller.error["code"] == "shutting_down"
    assert server.left_behind() == []
    assert {ending.status for ending in endings(check_trace(server)).values()} == {503}


def test_requests_that_outlast_the_drain_time_are_ended(start: Starter) -> None:
    server = slow(start, *FEW, "--drain-timeout-s", "0.2")
    caller = Caller(server, 250, stream=False)
    while not httpx.get(f"{server.url}/health").json()["num_running"]:
        pass
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    caller.join(5)
    assert caller.status == 503
    check_trace(server)


WORKERS = ["scheduler-0", "tokenizer-0", "detokenizer"]
HOW = {signal.SIGKILL: "was ended by SIGKILL", signal.SIGSTOP: "gave no sign of life for 1.5 s and was killed"}


def check_lost(server: RunningServer, victim: str) -> Trace:
    """The server has ended because of a worker, as it should; its trace."""
    assert server.wait() == WorkerLostError.exit_code
    assert server.left_behind() == []
    trace = Trace.open(server.trace_folder)
    verify(trace)
    lost = [entry.event for entry in trace.events("api") if isinstance(entry.event, events.ProcessLost)]
    assert [(event.name, event.exit_code) for event in lost] == [(victim, -signal.SIGKILL)]
    assert read_manifest(server.trace_folder)["exit_code"] == WorkerLostError.exit_code
    return trace


@pytest.mark.parametrize("number", HOW)
@pytest.mark.parametrize("name", WORKERS)
def test_a_lost_worker(start: Starter, name: str, number: signal.Signals) -> None:
    server = slow(start, "--worker-timeout-s", "1.5", "--max-model-len", "2000")
    callers = [Caller(server, 1900, stream=True), Caller(server, 1900, stream=False)]
    assert callers[0].first_chunk.wait(20)
    wait_running(server, 2)
    victim = server.workers()[name]
    lost_at = time.monotonic()
    victim.send_signal(number)
    for caller in callers:
        caller.join(20)
        assert caller.error is not None
        assert caller.error["code"] == "worker_lost"
        assert name in caller.error["message"]
        assert caller.ended_at - lost_at < (2 if number == signal.SIGKILL else 15)
    assert callers[1].status == 503
    trace = check_lost(server, name)
    assert f"{name} (process {victim.pid}) {HOW[number]}" in server.log
    assert {ending.code for ending in endings(trace).values()} == {"worker_lost"}


@pytest.mark.parametrize("number", HOW)
@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_that_is_lost_while_nothing_runs(start: Starter, name: str, number: signal.Signals) -> None:
    server = start("--worker-timeout-s", "1.5")
    server.workers()[name].send_signal(number)
    check_lost(server, name)


def test_a_long_step_is_no_silence(start: Starter) -> None:
    server = start("--seed", "3000", "--worker-timeout-s", "1.5", *FEW)  # a step takes 3 s
    answer = httpx.post(f"{server.url}/generate", json={"text": "AB", "sampling_params": {"max_new_tokens": 1}})
    assert answer.json()["text"] == "A"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log


def test_an_engine_that_fails_ends_every_request_and_the_server(start: Starter) -> None:
    server = slow(start, *FEW)
    waiting = Caller(server, 250)
    assert waiting.first_chunk.wait(20)
    breaking = Caller(server, 5, stream=False, prompt="\x07")
    assert server.wait() == WorkerLostError.exit_code
    for caller in (waiting, breaking):
        caller.join(5)
        assert caller.error is not None
        assert caller.error["code"] == "engine_error"
        assert "the prompt broke the engine" in caller.error["message"]
    assert breaking.status == 500
    assert server.left_behind() == []
    trace = Trace.open(server.trace_folder)
    verify(trace)
    assert [ending.code for ending in endings(trace).values()] == ["engine_error"] * 2


def test_a_killed_parent_takes_everything_with_it(start: Starter) -> None:
    server = slow(start)
    assert len(server.workers()) == 3
    server.process.kill()
    server.wait()
    assert server.left_behind() == []
    verify(Trace.open(server.trace_folder))


def test_one_process_can_do_both_text_jobs(start: Starter) -> None:
    server = start("--num-tokenizer", "0")
    assert set(server.workers()) == {"scheduler-0", "tokenizer-detokenizer"}
    assert httpx.post(f"{server.url}/generate", json={"text": "AB"}).json()["text"] == echo("AB", 128)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    check_trace(server)


def test_a_reader_that_does_not_read_holds_nobody_up(start: Starter) -> None:
    server = start(*FEW, "--max-model-len", "4096", "--num-pages", "8192", "--trace-level", "tokens")
    body = json.dumps({"text": "ABC", "stream": True, "sampling_params": {"max_new_tokens": 3000}})
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(30)
        lazy.connect(("127.0.0.1", httpx.URL(server.url).port))
        lazy.sendall(f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        assert lazy.recv(12) == b"HTTP/1.1 200"
        answer = httpx.post(f"{server.url}/generate", json={"text": "AB", "sampling_params": {"max_new_tokens": 500}})
        assert answer.json()["text"] == echo("AB", 500)
        while httpx.get(f"{server.url}/health").json()["num_running"]:
            time.sleep(0.05)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    # whether the stream still stood when its client went depends on how much the system's buffers took of it
    assert {ending.reason for ending in endings(check_trace(server)).values()} == {"length"}


@pytest.mark.parametrize("channel", ["scheduler", "api"])
def test_a_lost_message_leaves_nobody_waiting(start: Starter, channel: str) -> None:
    server = slow(start, *FEW, "--max-model-len", "2000")
    callers = [Caller(server, 1900, stream=True), Caller(server, 1900, stream=False)]
    wait_running(server, 2)
    sender, message = {
        "scheduler": ("tokenizer-detokenizer", AbortMsg(999)),
        "api": ("tokenizer-detokenizer", UserReply([])),
    }[channel]
    (address,) = [address for address in server.socket_addresses() if address.endswith(f"/{channel}.ipc")]
    with zmq.Context() as context:
        forger = context.socket(zmq.PUSH)
        forger.connect(address)
        envelope = encode_envelope(Envelope(sender, channel, 1_000_000, time.monotonic_ns()))
        forger.send_multipart([envelope, encode_messages([message])])
        forger.close(linger=5000)
    for caller in callers:
        caller.join(20)
        assert caller.error is not None
        assert caller.error["code"] in ("worker_lost", "internal_error")
    assert callers[1].status == 503
    assert server.wait() == WorkerLostError.exit_code
    assert "a message from tokenizer-detokenizer is lost: it is number 1000000" in server.log
    assert server.left_behind() == []


def test_workers_leave_signals_to_the_parent(start: Starter) -> None:
    server = start(*FEW)
    for worker in server.workers().values():
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGINT)
    assert httpx.post(f"{server.url}/generate", json={"text": "AB"}).is_success
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--num-pages", "1"], StartupError.exit_code, ["error: one page is too little"]),
        (["--num-pages", "2"], StartupError.exit_code, ["scheduler-0 ended with exit code 9 while it started"]),
        (["--start-timeout-s", "0.01"], StartupError.exit_code, ["within 0.01 s", "--start-timeout-s"]),
    ],
)
def test_a_start_that_fails(start: Starter, options: list[str], code: int, words: list[str]) -> None:
    server = start(*FEW, *options)
    assert server.wait() == code
    assert server.ready_line == ""
    assert all(word in server.log for word in words), server.log
    assert "Traceback" not in server.log
    assert server.left_behind() == []
    assert read_manifest(server.trace_folder)["exit_code"] == code
    verify(Trace.open(server.trace_folder))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"model": "no-such-model"}, ModelNotFoundError, "no-such-model"),
        ({"trace": Path("/proc/none")}, FolderError, "--trace /proc/none"),
        ({"host": "192.0.2.1"}, OptionError, "isn't an address of this machine"),
        ({"host": "no.such.host.invalid"}, OptionError, "can't be resolved"),
        ({"page_size": 0}, OptionError, "--page-size is 0"),
    ],
)
def test_what_can_be_known_is_found_before_anything_starts(
    options: dict[str, object], kind: type[Exception], words: str
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(kind, match=words):
        launch_server(Config().with_values({"port": 0}).with_values(options), executor_factory="no:executor")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_taken_port_is_named_with_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            PortInUseError, match=rf"port {port} of 127.0.0.1 is taken by process {os.getpid()} .*--port"
        ):
            bind_port("127.0.0.1", port)
    with bind_port("127.0.0.1", port) as first, bind_port("127.0.0.1", port) as second:
        assert url_of(first) == f"http://127.0.0.1:{port}"
        listen(first, "127.0.0.1", port)
        with pytest.raises(PortInUseError, match=f"port {port}"):  # both were free when they started
            listen(second, "127.0.0.1", port)


def test_the_url_names_an_address_that_clients_can_use() -> None:
    with bind_port("0.0.0.0", 0) as everywhere:
        assert url_of(everywhere).startswith("http://127.0.0.1:")
    with bind_port("::1", 0) as six:
        assert url_of(six).startswith("http://[::1]:")


def test_a_signal_while_it_starts(start: Starter) -> None:
    server = start(*FEW, wait_ready=False)
    deadline = time.monotonic() + 20
    while not (server.trace_root.exists() and list(server.trace_root.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.signal(signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGTERM
    assert server.left_behind() == []
