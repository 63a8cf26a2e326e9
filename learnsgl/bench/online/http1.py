"""Carries the load's requests: HTTP/1.1 to one server, as lean as hundreds of streams at once need it.

`measure.py` gives it to `httpx` as a transport. httpx's own looks at every connection of its pool for each request, and
spends several times as long on a piece of a stream: at 256 streams on one core that would be measured, and not the
server. What it leaves out: proxies, redirects, HTTP/2, and pipes that wait while a reader is slow (this one isn't).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import httpx

KEEPALIVE_S = 2.0
"""Shorter than servers keep idle connections, so that no request is sent on one that is being closed."""
_MAX_HEAD_BYTES = 1 << 16
_NO_BODY = (204, 304)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class ChunkedBody:
    """Takes the bytes of a chunked body, cut anywhere, and gives what is in the chunks that are complete.

    Attributes:
        is_done: whether the last chunk and what follows it have come.

    Source: RFC 9112, section 7.1.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._rest = b""
        self._in_trailer = False

    def feed(self, data: bytes) -> bytes:
        """The content of the chunks that end within `data`.

        Raises:
            ValueError: where a chunk's size should be, there is none.
        """
        data, at, parts = self._rest + data, 0, []
        while (end := data.find(b"\r\n", at)) >= 0:
            if self._in_trailer:
                self.is_done = self.is_done or end == at
                at = end + 2
                continue
            size = int(data[at:end].partition(b";")[0], 16)
            if size < 0:
                raise ValueError(f"a chunk of {size} bytes")
            after = end + 2 + size
            if size and len(data) < after + 2:
                break
            if size:
                parts.append(data[end + 2 : after])
                after += 2
            else:
                self._in_trailer = True
            at = after
        self._rest = data[at:]
        return b"".join(parts)


class Connection(asyncio.Protocol):
    """One connection: bytes come in by themselves, and `read` waits for some.

    Attributes:
        is_open: whether the other side hasn't closed it.
        idle_since_s: when its last request ended, on `time.monotonic`.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.idle_since_s = 0.0
        self._buffer = b""
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._buffer += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.is_open, self._error = False, exc
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        assert self._transport is not None
        self._transport.write(data)

    async def read(self) -> bytes:
        """What has come since the last call, or comes next; nothing at the end.

        Raises:
            httpx.ReadError: the connection broke.
        """
        while not self._buffer and self.is_open:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        data, self._buffer = self._buffer, b""
        if not data and self._error is not None:
            raise httpx.ReadError(str(self._error) or type(self._error).__name__)
        return data

    def close(self) -> None:
        """Close it; the server sees that its client left."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()


class _Body(httpx.AsyncByteStream):
    """The body of a response; the connection can be used again once it has been read to its end."""

    def __init__(self, pool: Http1Transport, connection: Connection, response: _Head, first: bytes) -> None:
        self._pool = pool
        self._connection = connection
        self._head = response
        self._first = first
        self._is_whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head, data = self._head, self._first
        chunked = ChunkedBody() if head.is_chunked else None
        left = head.length
        while chunked is not None or left is None or left > 0 or data:
            if not data and not (data := await self._connection.read()):
                if chunked is not None or left is not None:
                    raise httpx.RemoteProtocolError("the server closed the connection before the answer's end")
                return  # a body that lasts as long as the connection
            if chunked is not None:
                try:
                    content = chunked.feed(data)
                except ValueError as error:
                    raise httpx.RemoteProtocolError(f"not a chunked body: {error}") from None
                if content:
                    yield content
                if chunked.is_done:
                    break
            else:
                left = None if left is None else left - len(data)
                yield data
            data = b""
        self._is_whole = left is None or left == 0

    async def aclose(self) -> None:
        """Give the connection back, or close it where more of the body would come."""
        if self._is_whole and self._head.keeps_alive and self._connection.is_open:
            self._pool.give_back(self._connection)
        else:
            self._connection.close()


class _Head:
    """Status and headers of a response."""

    def __init__(self, data: bytes) -> None:
        first, *lines = data.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise httpx.RemoteProtocolError(f"not an answer in HTTP/1.1: {first[:80]!r}")
        self.status = int(rest[:3])
        pairs = (line.partition(b":") for line in lines)
        self.headers = [(name.strip(), value.strip()) for name, _, value in pairs]
        found = {name.lower(): value for name, value in self.headers}
        self.is_chunked = found.get(b"transfer-encoding", b"").lower() == b"chunked"
        length = found.get(b"content-length", b"")
        self.length = 0 if self.status in _NO_BODY else int(length) if length.isdigit() else None
        is_bounded = self.is_chunked or self.length is not None
        self.keeps_alive = (
            is_bounded and version == b"HTTP/1.1" and found.get(b"connection", b"").lower() != b"close"
        )  # fmt: skip


class Http1Transport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient` with one base URL; connections are kept and used again, the newest first."""

    def __init__(self) -> None:
        self._idle: list[Connection] = []
        self._ssl: ssl.SSLContext | None = None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response when its head has come.

        Raises:
            httpx.ConnectError: no connection could be made.
            httpx.ReadError, httpx.RemoteProtocolError: it broke, or what came isn't HTTP/1.1.
        """
        connection = await self._connect(request.url)
        try:
            connection.write(_bytes_of(request))
            head, rest = await _read_head(connection)
        except BaseException:
            connection.close()
            raise
        return httpx.Response(head.status, headers=head.headers, stream=_Body(self, connection, head, rest))

    async def _connect(self, url: httpx.URL) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and time.monotonic() - connection.idle_since_s < KEEPALIVE_S:
                return connection
            connection.close()
        if url.scheme == "https" and self._ssl is None:
            self._ssl = httpx.create_ssl_context()
        port = url.port or _DEFAULT_PORTS[url.scheme]
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, url.host, port, ssl=self._ssl if url.scheme == "https" else None
            )
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    async def aclose(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _bytes_of(request: httpx.Request) -> bytes:
    head = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    head += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join([*head, b"", request.content])


async def _read_head(connection: Connection) -> tuple[_Head, bytes]:
    """The head of the answer, and what came behind it."""
    data = b""
    while True:
        while (end := data.find(b"\r\n\r\n")) < 0:
            if not (more := await connection.read()):
                raise httpx.RemoteProtocolError("the server closed the connection without an answer")
            data += more
            if len(data) > _MAX_HEAD_BYTES:
                raise httpx.RemoteProtocolError(f"no answer in HTTP/1.1 within {len(data)} bytes")
        head, data = _Head(data[:end]), data[end + 4 :]
        if head.status >= 200:  # below: an announcement, and the answer follows
            return head, data
