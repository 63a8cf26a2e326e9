"""A server for the demo, in a child process of its own: started, found, and stopped whatever happens.

`run.py` starts it the way a user would, with `python -m learnsgl serve`, and reads the line with which the server says
that it is ready.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from learnsgl.config import keyless_environment
from learnsgl.errors import ServingError, StartupError

STOP_WAIT_S = 45.0
"""Longer than the server gives to requests that still run, and then to its workers."""
KILL_WAIT_S = 5.0
_READY = re.compile(r"learnsgl ready: (\S+)/v1 ")


class DemoServer:
    """`learnsgl serve` in a child process, for a `with` block.

    Attributes:
        url: where it listens.
        ready_line: what it said when it was ready.

    Args:
        options: what follows `learnsgl serve` on the command line; it should hold `--port 0`.
        log: file for what the server logs.

    Raises:
        StartupError: it ended before it was ready; its last words are in the message.
    """

    def __init__(self, options: Sequence[str], log: Path) -> None:
        self._command = [sys.executable, "-m", "learnsgl", "serve", *options]
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.ready_line = ""

    def __enter__(self) -> DemoServer:
        """Nothing runs yet; `start` comes inside the block, so that nothing that was started can be missed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave no process behind: one that `stop` has not ended is ended at once."""
        process = self._process
        if process is None:
            return
        for _ in range(2):  # the second signal doesn't let running requests finish
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(KILL_WAIT_S)
        if process.poll() is None:
            process.kill()  # its workers end when it does
            process.wait()
        assert process.stdout is not None, "started with a pipe"
        process.stdout.close()

    def start(self) -> None:
        """Start it, and return at once; `wait_ready` waits."""
        with self._log.open("w", encoding="utf-8") as log, _signals_deferred():
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=keyless_environment(),
            )

    def wait_ready(self) -> None:
        """Wait until requests can come.

        Raises:
            StartupError: it ended instead.
        """
        process = self._running()
        assert process.stdout is not None, "started with a pipe"
        for line in process.stdout:
            if match := _READY.match(line):
                self.url, self.ready_line = match[1], line.strip()
                return
        raise StartupError(
            f"the server ended with exit code {process.wait()} before it was ready:\n{self.last_words()}"
        )

    def stop(self) -> None:
        """Ask it to end as Ctrl-C does, and wait.

        Raises:
            ServingError: it ended with an error, or not at all.
        """
        process = self._running()
        process.terminate()
        try:
            exit_code = process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            raise ServingError(f"the server still ran {STOP_WAIT_S:g} s after it was asked to stop") from None
        if exit_code != 0:
            raise ServingError(f"the server ended with exit code {exit_code}:\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-20:]) or f"({self._log} is empty)"

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "`start` comes first"
        return self._process


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done, so that no child runs that nobody knows of."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for given in came[:1]:
            signal.raise_signal(given)
