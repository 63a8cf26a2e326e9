"""A server in a process of its own, as the tests start and watch it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import openai
import psutil

REPOSITORY = Path(__file__).parents[2]
MODEL = "tiny-random"


class RunningServer:
    """A started server.

    Args:
        root: folder for its recordings.
        home: the models' cache, shared by all servers of a test run.
        options: more options for its command line.
        echo: with the echo executor in the engine's place.
        wait_ready: return only when it is ready, or has failed.

    Attributes:
        url: where it listens.
        pool: connections for the clients of other libraries, closed with the server. What such a client keeps to itself
            is left to the garbage collector, which may finalise a socket before the client that would have closed it.
        ready_line: the line that it printed when it was ready.
    """

    def __init__(self, root: Path, home: Path, *options: str, echo: bool = True, wait_ready: bool = True) -> None:
        self.trace_root = root / "traces"
        self.pool = httpx.Client(limits=httpx.Limits(max_connections=None))
        self._temp = tempfile.TemporaryDirectory(prefix="lt-")  # sockets need a short path
        program = ["-m", "tests.server.serve_echo"] if echo else ["-m", "learnsgl.cli", "serve"]
        self.process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", "--model", MODEL, "--trace", str(self.trace_root), *options],
            cwd=REPOSITORY,
            env=os.environ | {"TMPDIR": self._temp.name, "LEARNSGL_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._log.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self.ready_line = self.process.stdout.readline().strip() if wait_ready else ""
        self.url = next((word.removesuffix("/v1") for word in self.ready_line.split() if word.startswith("http")), "")

    @property
    def log(self) -> str:
        return "".join(self._log)

    @property
    def trace_folder(self) -> Path:
        (folder,) = self.trace_root.iterdir()
        return folder

    def socket_addresses(self) -> list[str]:
        """The addresses of its ZMQ channels."""
        return [f"ipc://{path}" for path in sorted(Path(self._temp.name).glob("*/*.ipc"))]

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=30, http_client=self.pool
        )

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def workers(self) -> dict[str, psutil.Process]:
        """The worker processes by name, as the trace tells them."""
        from learnsgl.trace import events
        from learnsgl.trace.reader import Trace

        trace = Trace.open(self.trace_folder)
        return {
            item.event.name: psutil.Process(item.event.pid)
            for item in trace.events("api")
            if isinstance(item.event, events.ProcessSpawned)
        }

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        """Wait until it has ended; its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def left_behind(self, patience_s: float = 10) -> list[str]:
        """Processes of its session, and its sockets, that are still there some time after its end."""
        deadline = time.monotonic() + patience_s
        while (left := self._left_now()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def _left_now(self) -> list[str]:
        left = [str(path) for path in Path(self._temp.name).iterdir()]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # it ended while we looked, or is a zombie
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline()))
        return left

    def close(self) -> None:
        """End it and whatever it left."""
        self.pool.close()
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self._temp.cleanup()
