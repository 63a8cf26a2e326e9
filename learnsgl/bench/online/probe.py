"""Asks a server's small routes again and again while it is under load: do they answer at once, whatever else runs?

`measure.py` runs `probing` around every run. The asking is done by a process of its own, this file's `main`, so that
the load's client, which may be busy with hundreds of streams, doesn't show in the times.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import select
import sys
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec

from learnsgl.bench.online.results import Probe, Run
from learnsgl.bench.online.target import Target

EVERY_S = 0.1
"""Between two questions to one route."""
_ASK_S = 10.0
"""After so long a question counts as failed."""
_END_S = _ASK_S + 2.0
_READY = b"ready\n"


class Ask(msgspec.Struct, frozen=True):
    """What the process is told, on its standard input; it ends when that is closed.

    Attributes:
        url: the server's.
        api_key: sent along; `None` for none.
        paths: the routes, which are asked in turn.
        every_s: between two questions to one of them.
    """

    url: str
    api_key: str | None
    paths: list[str]
    every_s: float = EVERY_S


@contextlib.asynccontextmanager
async def probing(target: Target, paths: list[str], run: Run) -> AsyncIterator[None]:
    """Have the routes asked until the block ends; what came of it is in `run.probes`.

    Args:
        target: the server.
        paths: the routes; with none, nothing is started.
        run: gets the rows, its `probes`.
    """
    if not paths:
        yield
        return
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "learnsgl.bench.online.probe", stdin=pipe, stdout=pipe, start_new_session=True
    )  # Ctrl-C in the terminal is for us
    assert process.stdin is not None
    assert process.stdout is not None
    reading: asyncio.Task[None] | None = None
    try:
        process.stdin.write(msgspec.json.encode(Ask(target.url, target.api_key, paths)) + b"\n")
        await process.stdout.readline()
        reading = asyncio.create_task(_read(process.stdout, run.probes))
        yield
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await asyncio.gather(*([] if reading is None else [reading]), process.wait())
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _read(stream: asyncio.StreamReader, probes: list[Probe]) -> None:
    decoder = msgspec.json.Decoder(Probe)
    async for line in stream:
        probes.append(decoder.decode(line))


class Prober:
    """The asking process's connections to one server, one for each route.

    Args:
        ask: what it was told.
    """

    def __init__(self, ask: Ask) -> None:
        self._url = urlsplit(ask.url)
        self._headers = {} if ask.api_key is None else {"Authorization": f"Bearer {ask.api_key}"}
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def status(self, path: str) -> int | None:
        """Ask a route. Returns its status; `None` where nobody answers."""
        connection = self._connections.get(path) or self._connect()
        try:
            connection.request("GET", self._url.path + path, headers=self._headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._connections.pop(path, None)
            return None
        self._connections[path] = connection
        return response.status

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.hostname or "", self._url.port, timeout=_ASK_S)


def main() -> None:
    """Ask until standard input is closed, and write a line of JSON for each question."""
    ask = msgspec.json.decode(sys.stdin.buffer.readline(), type=Ask)
    prober = Prober(ask)
    for path in ask.paths:
        prober.status(path)  # the connection's own time isn't what is to be measured
    _write(_READY)
    start_s = time.monotonic()
    for number in itertools.count():
        intended_s = number * ask.every_s / len(ask.paths)
        wait_s = max(0.0, start_s + intended_s - time.monotonic())
        if select.select([sys.stdin], [], [], wait_s)[0]:
            return
        path = ask.paths[number % len(ask.paths)]
        status = prober.status(path)
        took_ms = 1e3 * (time.monotonic() - start_s - intended_s)
        _write(msgspec.json.encode(Probe(path, round(intended_s, 6), round(took_ms, 3), status)) + b"\n")


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
