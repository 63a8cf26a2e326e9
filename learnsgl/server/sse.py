"""Answers that notice when their client goes away: whole ones, and streams of server-sent events.

`api_server.py` returns them. The web framework's own streaming response would notice a lost client only at the next
write, and a request that waits for its first token has nothing to write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from learnsgl.server.live import LiveRequest
from learnsgl.server.requests import RequestHub

Result = TypeVar("Result")


class Chunk(NamedTuple):
    """A server-sent event.

    Attributes:
        data: its bytes.
        choice: number of the choice that it is about; `None`: the one before it, or all of them.
    """

    data: bytes
    choice: int | None = None


def sse(body: bytes) -> bytes:
    """One server-sent event with a body of JSON."""
    return b"data: " + body + b"\n\n"


STREAM_END = Chunk(sse(b"[DONE]"))


class ClientLeft(Exception):
    """The client went away while its request ran; the workers have been told."""


async def unless_client_leaves(
    work: Coroutine[Any, Any, Result], receive: Receive, live: LiveRequest, hub: RequestHub
) -> Result:
    """Do `work` for a client, and give up when the client goes away.

    Raises:
        ClientLeft: it did; `hub` has been told.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_watch(receive, live))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    except (ClientLeft, asyncio.CancelledError):  # cancelled: the server ends, and this client was too slow
        hub.client_left(live)
        raise
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _watch(receive: Receive, live: LiveRequest) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    live.connection_closed = True


class WholeAnswer(Response):
    """An answer in one piece.

    Args:
        body: its JSON.
        live: the request that it answers.
        hub: where the request came from.
        status: the HTTP status.
    """

    def __init__(self, body: bytes, live: LiveRequest, hub: RequestHub, status: int = 200) -> None:
        super().__init__(body, status, media_type="application/json")
        self._live = live
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and record that."""
        await super().__call__(scope, receive, send)
        for uid in self._live.uids:
            self._hub.trace.answered(uid, self.status_code, len(self.body))


class EventStream(Response):
    """A stream of server-sent events.

    Args:
        chunks: the events.
        live: the request that they answer.
        hub: where the request came from.
    """

    def __init__(self, chunks: AsyncIterator[Chunk], live: LiveRequest, hub: RequestHub) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._live = live
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the chunks as they come; `send` waits while the client is slow to read."""
        try:
            await unless_client_leaves(self._write(send), receive, self._live, self._hub)
        except ClientLeft:
            return

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        total, choice = 0, self._live.choices[0]
        async for data, number in self._chunks:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            if self._live.connection_closed:  # `send` doesn't tell
                raise ClientLeft
            choice = choice if number is None else self._live.choices[number]
            self._hub.trace.streamed(choice.key, len(data))
            total += len(data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        for uid in self._live.uids:
            self._hub.trace.answered(uid, self.status_code, total)
