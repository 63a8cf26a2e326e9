"""`learnsgl chat` as it is typed: with a real server, in a real terminal, and with a server of its own."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from learnsgl import cli
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.server.running import MODEL, REPOSITORY, RunningServer

STEP_MS = 20
LONG = "x" * 120
"""Its echo takes over two seconds."""
PROMPT = r">\x1b\[0m"
Type = Callable[..., int]


def free_port() -> int:
    """A port on which nobody listens, as good as sure."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, home_folder: Path) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("server"), home_folder, "--seed", str(STEP_MS))
    try:
        assert running.url, running.log
        yield running
        running.process.terminate()
        assert running.wait() == 0, running.log
        assert verify(Trace.open(running.trace_folder)).is_whole
    finally:
        running.close()


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Runs the command in this process, with lines from a pipe."""

    def chat(stdin: str, *words: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        monkeypatch.setattr("learnsgl.chat.run.DEFAULT_URL", f"http://127.0.0.1:{free_port()}")
        return cli.main(["chat", *words])

    return chat


def test_a_script_is_answered_line_by_line(
    server: RunningServer, chat: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat("Hi\n/stats\n", "--url", server.url, "--max-tokens", "8", "--temperature", "0", "--top-p", "0.5") == 0
    answer, numbers, source = capsys.readouterr().out.rsplit("\n", 3)[:3]
    assert answer == "user\nHi"
    assert numbers.endswith("answer 8 tokens")
    assert source == "measured by this client"


def test_a_model_that_the_server_lacks(server: RunningServer, chat: Type, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat("Hi\n", "--url", f"{server.url}/v1", "--model", "gpt-4") == 2
    assert f"--model is 'gpt-4', and {server.url} has: {MODEL}" in capsys.readouterr().err
    assert chat("", "--url", server.url, "--model", MODEL) == 0


def test_a_server_that_wants_a_key(
    chat: Type, tmp_path: Path, home_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LEARNSGL_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = RunningServer(tmp_path, home_folder, "--num-tokenizer", "0", "--api-key", "sesame")
    try:
        words = ["--url", running.url, "--max-tokens", "7"]
        assert chat("Hi\n", *words) == 3
        assert "Give its key with --api-key, or as $LEARNSGL_API_KEY" in capsys.readouterr().err
        assert chat("Hi\n", *words, "--api-key", "sesam") == 3
        assert chat("Hi\n", *words, "--api-key", "sesame") == 0
        monkeypatch.setenv("OPENAI_API_KEY", "sesame")
        assert chat("Hi\n", *words) == 0
        monkeypatch.setattr("learnsgl.chat.run.DEFAULT_URL", running.url)
        capsys.readouterr()
        assert cli.main(["chat"]) == 3, "no second server beside one that only wants a key"
        assert "refuses" in capsys.readouterr().err
    finally:
        running.close()


def test_a_url_where_nobody_answers(chat: Type, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat("Hi\n", "--url", f"http://127.0.0.1:{free_port()}") == 3
    assert "nobody answers at" in capsys.readouterr().err
    assert chat("Hi\n", "--url", "nowhere") == 2
    assert "--url is 'nowhere'" in capsys.readouterr().err


def test_a_server_of_its_own_is_started_recorded_and_ended(
    chat: Type, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--model", MODEL, "--trace", str(tmp_path), "--num-threads", "1", "--num-pages", "2048", "--no-overlap")
    assert chat("Hi\nHi\n/stats\n", *words, "--max-tokens", "4", "--trace-level", "tokens") == 0
    captured = capsys.readouterr()
    assert "starting one for this chat" in captured.err
    assert "learnsgl ready: " in captured.err
    trace = Trace.open(tmp_path)
    assert f"measured in the server: request 2 of its trace in {trace.path}" in captured.out
    assert verify(trace).is_whole, "it was stopped in order"
    config = trace.manifest["config"]
    assert (config["scheduler"]["overlap"], config["engine"]["num_pages"], trace.level) == (False, 2048, "tokens")
    last = requests(trace)[-1]
    assert last.ttft_s is not None
    assert f"TTFT {last.ttft_s * 1e3:.1f} ms" in captured.out
    assert f"prompt {last.prompt_tokens} tokens, {last.cached_tokens} of them from the cache" in captured.out


# ---------------------------------------------------------------- in a terminal


@pytest.fixture
def terminal(home_folder: Path) -> Iterator[Callable[[str], pexpect.spawn]]:
    """Starts chats in terminals of their own, and ends what is left of them after the test."""
    started: list[pexpect.spawn] = []

    def terminal(url: str) -> pexpect.spawn:
        env = os.environ | {"LEARNSGL_HOME": str(home_folder), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        words = ["-m", "learnsgl", "chat", "--url", url]
        child = pexpect.spawn(sys.executable, words, env=env, cwd=str(REPOSITORY), encoding="utf-8", timeout=30)  # type: ignore[arg-type]
        started.append(child)
        child.expect(PROMPT)
        return child

    yield terminal
    for child in started:
        child.close(force=True)


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(
    server: RunningServer, terminal: Callable[[str], pexpect.spawn]
) -> None:
    child = terminal(server.url)
    child.send(f"{LONG}\r")
    child.expect("user\r\nxx")
    child.sendintr()
    child.expect(r"\(stopped\)")
    child.expect(PROMPT)
    child.send("/reset\r")
    child.expect("forgotten")
    child.expect(PROMPT)
    child.send("Hello\r")
    child.expect("user\r\nHello\r\n")
    child.expect(PROMPT)
    child.sendintr()
    child.expect("Ctrl-D or /exit leaves")
    child.expect(PROMPT)
    child.send("/stats\r")
    child.expect("measured by this client")
    child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    stopped = [life for life in requests(Trace.open(server.trace_folder)) if life.reason == "abort"]
    assert stopped, "the server was told to stop, too"


def test_a_server_that_dies_is_told_without_a_traceback(
    terminal: Callable[[str], pexpect.spawn], tmp_path: Path, home_folder: Path
) -> None:
    own = RunningServer(tmp_path, home_folder, "--seed", str(STEP_MS))
    try:
        child = terminal(own.url)
        child.send(f"{LONG}\r")
        child.expect("user\r\nxx")
        os.killpg(own.process.pid, signal.SIGKILL)
        child.expect("the connection to .* broke")
        child.expect(PROMPT)
        child.send("Are you there?\r")
        child.expect("nobody answers at")
        child.expect(PROMPT)
        child.send("/exit\r")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    finally:
        own.close()
