"""The transport of `learnsgl bench online`: answers however they are cut and bounded, connections kept or closed."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from learnsgl.bench.online import http1
from learnsgl.bench.online.http1 import ChunkedBody, Http1Transport

CHUNKED = b"4\r\nwiki\r\n6;a=b\r\npedia \r\nE\r\nin\r\n\r\nchunks..\r\n0\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 5, 13, 1000])
def test_a_chunked_body_is_read_however_it_is_cut(size: int) -> None:
    body, found = ChunkedBody(), b""
    for at in range(0, len(CHUNKED), size):
        assert not body.is_done
        found += body.feed(CHUNKED[at : at + size])
    assert body.is_done
    assert found == b"wikipedia in\r\n\r\nchunks.."


@pytest.mark.parametrize("data", [b"wiki\r\n", b"-4\r\nwiki\r\n"])
def test_what_is_no_chunk_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|chunk of -4"):
        ChunkedBody().feed(data)


class RawServer:
    """Gives a fixed answer to each request, a few bytes at a time; counts connections, and keeps what was asked."""

    def __init__(self, answer: bytes, *, closes: bool = False, size: int = 7) -> None:
        self.answer, self.closes, self.size = answer, closes, size
        self.num_connections = 0
        self.requests: list[bytes] = []
        self._ended: list[asyncio.Event] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._ended.append(asyncio.Event())
        ended = self._ended[-1]
        with contextlib.suppress(ConnectionError):
            while head := await reader.read(65536):
                self.requests.append(head)
                for at in range(0, len(self.answer), self.size):
                    writer.write(self.answer[at : at + self.size])
                    await asyncio.sleep(0)
                if self.closes:
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    def ask(self, times: int = 1) -> list[httpx.Response]:
        """Ask so many times, one after the other."""

        async def run() -> list[httpx.Response]:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                async with httpx.AsyncClient(base_url=url, transport=Http1Transport(), timeout=None) as client:
                    return [await client.post("/a?b=c", content=b"{}") for _ in range(times)]
            finally:
                server.close()
                for ended in self._ended:
                    await ended.wait()

        return asyncio.run(run())


CHUNKED_ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n" + CHUNKED
SIZED = b"HTTP/1.1 429 Too Many\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (CHUNKED_ANSWER, 200, b"wikipedia in\r\n\r\nchunks.."),
        (SIZED, 429, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED, 429, b"hello"),
    ],
)
@pytest.mark.parametrize("size", [1, 9, 1000])
def test_answers_with_an_end_keep_their_connection(answer: bytes, status: int, body: bytes, size: int) -> None:
    server = RawServer(answer, size=size)
    for response in server.ask(3):
        assert (response.status_code, response.content) == (status, body)
    assert server.num_connections == 1
    assert server.requests[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert server.requests[0].endswith(b"\r\n\r\n{}")
    assert b"\r\nContent-Length: 2\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nhello", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", False),
    ],
)
def test_other_connections_are_not_used_again(answer: bytes, closes: bool) -> None:
    server = RawServer(answer, closes=closes)
    assert [response.content for response in server.ask(2)] == [b"hello", b"hello"]
    assert server.num_connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "KEEPALIVE_S", 0.0)
    server = RawServer(SIZED)
    server.ask(3)
    assert server.num_connections == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-x\r\n\r\n", "not an answer in HTTP/1.1"),
        (b"x" * 100_000, "no answer in HTTP/1.1 within"),
        (SIZED[:-2], "before the answer's end"),
        (CHUNKED_ANSWER[:-9], "before the answer's end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", "not a chunked body"),
    ],
)
def test_a_broken_answer_is_a_protocol_error(answer: bytes, words: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match=words):
        RawServer(answer, closes=True, size=50_000).ask()
