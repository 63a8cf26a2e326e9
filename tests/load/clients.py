"""Clients that cost so little that hundreds of them fit into one thread: HTTP by hand over asyncio's own sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.server.running import MODEL, RunningServer


@dataclass
class Answer:
    """What a client got.

    Attributes:
        status: of the answer; 0 where the client left before there was one.
        text: of its first choice.
        error: the body of the error, if there was one.
        finish_reason: why the text ended.
        num_chunks: pieces of a stream with text in them.
        ended_at: when the last byte came.
    """

    status: int = 0
    text: str = ""
    error: dict[str, Any] | None = None
    finish_reason: str | None = None
    num_chunks: int = 0
    ended_at: float = field(default=0.0, compare=False)

    def take(self, body: dict[str, Any]) -> None:
        """Take an object: a whole answer, or a chunk of a stream."""
        self.error = body.get("error", self.error)
        for choice in body.get("choices", []):
            self.text += choice["text"]
            self.num_chunks += bool(choice["text"])
            self.finish_reason = choice["finish_reason"] or self.finish_reason


class Client:
    """A client of `/v1/completions`, with a connection for each request.

    Args:
        server: the server.
    """

    def __init__(self, server: RunningServer) -> None:
        self._port = httpx.URL(server.url).port

    async def complete(
        self, prompt: str, max_tokens: int, *, stream: bool = False, leave_at: int = 0, **fields: Any
    ) -> Answer:
        """Ask, and wait for the answer.

        Args:
            prompt: in ASCII.
            max_tokens: length of the answer.
            stream: whether it comes in chunks.
            leave_at: go away after so many chunks of text; 0 stays.
            fields: more of the request's body.
        """
        answer = Answer()
        body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "stream": stream, **fields}
        async for status, part in self.request("POST", "/v1/completions", body):
            answer.status = status
            answer.take(part)
            if leave_at and answer.num_chunks >= leave_at:
                return answer
        answer.ended_at = time.monotonic()
        return answer

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """The status and the object at a path."""
        async for status, body in self.request("GET", path):
            return status, body
        raise AssertionError(f"{path} gave nothing")

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """The status with each object of an answer: the only one, or those of its events. Stopping goes away."""
        reader, writer = await self.connect()
        try:
            self.write(writer, method, path, body)
            status, is_stream = 0, False
            while line := (await reader.readline()).strip().lower():
                status = status or int(line.split()[1])
                is_stream = is_stream or line.startswith(b"content-type: text/event-stream")
            if not is_stream:
                yield status, json.loads(await reader.read())
                return
            while line := await reader.readline():  # an event is one line, between the lengths of chunked encoding
                if line.startswith(b"data: {"):
                    yield status, json.loads(line[6:])
        finally:
            writer.transport.abort()

    async def connect(self, receive_buffer: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; one with a small buffer makes the server feel a slow reader early."""
        if receive_buffer is None:
            return await asyncio.open_connection("127.0.0.1", self._port)
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        lazy.setblocking(False)
        await asyncio.get_running_loop().sock_connect(lazy, ("127.0.0.1", self._port))
        return await asyncio.open_connection(sock=lazy, limit=receive_buffer)

    def write(self, writer: asyncio.StreamWriter, method: str, path: str, body: dict[str, Any] | None) -> None:
        """Send a request."""
        data = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
