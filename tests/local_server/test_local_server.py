"""A server for a notebook: a real one is started, asked and stopped, and none is left behind."""

import subprocess
import sys
import textwrap
import time

import openai
import psutil
import pytest

from learnsgl.errors import StartupError
from learnsgl.local_server import LocalServer
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify

MODEL = "tiny-random"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def start(tmp_path, *options):
    return LocalServer("--num-pages", "2048", "--num-threads", "1", *options, model=MODEL, trace="runs", cwd=tmp_path)


def gone(pid, patience_s=20.0):
    """Whether a process ends within this time (it is waited for, not measured)."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_server_answers_ends_in_order_and_leaves_a_whole_recording(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNSGL_API_KEY", "the user's, for other servers")  # nobody here sends it
    with start(tmp_path) as server:
        assert server.is_running
        assert server.url in server.ready_line
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
            answer = client.chat.completions.create(
                model=server.model, messages=[{"role": "user", "content": "hi"}], max_tokens=3, temperature=0
            )
        assert answer.usage.completion_tokens <= 3
        pids = [server.process.pid, *(child.pid for child in psutil.Process(server.process.pid).children())]
    assert server.close() == 0  # again, which is harmless
    assert not server.is_running
    assert "Traceback" not in server.log
    assert "ended with exit code 0" in repr(server)
    assert all(gone(pid) for pid in pids)
    trace = Trace.open(server.trace_folder)
    assert server.trace_folder.parent == tmp_path / "runs"
    assert verify(trace).is_whole
    assert trace.manifest["command"][:3] == ["learnsgl", "serve", "--port"]


def test_a_server_that_can_not_start_says_why(tmp_path):
    with pytest.raises(StartupError, match=r"exit code 3 before it was ready: .*no-such-model"):
        LocalServer(model="no-such-model", cwd=tmp_path)
    with pytest.raises(StartupError, match=r"exit code 2 before it was ready: .*--colour"):
        LocalServer("--colour", "blue", model=MODEL, cwd=tmp_path)


def test_a_server_ends_however_the_python_that_started_it_ends(tmp_path):
    script = textwrap.dedent(f"""
        import os
        from learnsgl.local_server import LocalServer
        server = LocalServer("--num-pages", "2048", "--num-threads", "1", model={MODEL!r})
        print(server.process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """)
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert gone(int(ran.stdout)), "the server was left behind"
