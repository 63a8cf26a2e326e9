"""A real server for a notebook or a script: started with one line, stopped with one line, and never left behind.

The lessons use it in "now record your own", and `traces/record.py` to make the recordings. It is the same program as
`learnsgl serve`, in processes of its own; only its start and its end are taken care of.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from learnsgl.config import BUILT_IN_MODEL, keyless_environment
from learnsgl.errors import StartupError

STOP_WAIT_S = 45.0
"""How long the server may take to end before it is killed: its own drain time and then some."""
_LOG_TAIL_CHARS = 2000


class LocalServer:
    """A running server on a free port of this machine.

        with LocalServer(trace="my_runs") as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")

    Without `with`, call `close` when you are done. If you forget it, the server ends with this Python.

    Attributes:
        url: where it listens, such as `http://127.0.0.1:40123`.
        model: name that clients use for the model.
        trace_folder: folder of this run's recording; `None` where nothing is recorded.
        ready_line: the line that `learnsgl serve` prints when requests can come.
        process: the server's parent process, which is also its API server.

    Args:
        options: more options of `learnsgl serve`, such as `"--no-overlap"`.
        model: a built-in model, a folder or a file, as `--model` takes it.
        trace: folder for recordings; the run gets a folder of its own in it. `None` records nothing.
        cwd: folder that relative paths begin at; by default the current one.

    Raises:
        StartupError: the server ended before it was ready; the message holds the end of its log.
    """

    def __init__(
        self, *options: str, model: str = BUILT_IN_MODEL, trace: Path | str | None = None, cwd: Path | None = None
    ) -> None:
        words = ["serve", "--port", "0", "--model", model]
        if trace is not None:
            words += ["--trace", str(trace)]
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._last_log = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "learnsgl.local_server.guard", *words, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=cwd,
            env=keyless_environment(),
            text=True,
            start_new_session=True,  # an interrupt of the notebook is not one of the server
        )
        atexit.register(self.close)
        try:
            facts = self._wait_ready()
        except BaseException:  # an interrupt too: whoever gets no object can't close it
            self.close()
            raise
        self.url = str(facts["url"])
        self.model = str(facts["model"])
        self.ready_line = str(facts["line"])
        self.trace_folder = None if facts["trace_folder"] is None else (cwd or Path()) / facts["trace_folder"]

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """What it has written to its standard error."""
        if self._log.closed:
            return self._last_log
        fd = self._log.fileno()  # shared with the server: a `seek` here would move the place where it writes
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")

    def close(self) -> int:
        """Stop it as Ctrl-C does: running requests finish first. Safe to call twice.

        Returns:
            Its exit code; 0 where all went well.
        """
        atexit.unregister(self.close)
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self._last_log = self.log
        for stream in (self.process.stdin, self.process.stdout, self._log):
            assert stream is not None
            stream.close()
        return code

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.is_running else f"ended with exit code {self.process.returncode}"
        return f"<LocalServer {self.model} at {self.url}, {state}>"

    def _wait_ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            facts: dict[str, Any] = json.loads(line)
            return facts
        code = self.process.wait()
        said = self.log[-_LOG_TAIL_CHARS:].strip() or "it wrote no log"
        raise StartupError(f"the server ended with exit code {code} before it was ready: {said}")
