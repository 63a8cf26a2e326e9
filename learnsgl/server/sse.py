"""Answers that notice when their client goes away: whole ones, and streams of server-sent events.

`api_server.py` returns them. The web framework's own streaming response would notice a lost client only at the next
write, and a request that waits for its first token has nothing to write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from learnsgl.server.requests import LiveRequest, RequestHub

Result = TypeVar("Result")


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
        self._hub.trace.answered(self._live.uid, self.status_code, len(self.body))


class EventStream(Response):
    """A stream of server-sent events.

    Args:
        chunks: the events, encoded.
        live: the request that they answer.
        hub: where the request came from.
    """

    def __init__(self, chunks: AsyncIterator[bytes], live: LiveRequest, hub: RequestHub) -> None:
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
        total = 0
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if self._live.connection_closed:  # `send` doesn't tell
                raise ClientLeft
            self._hub.trace.streamed(self._live.uid, len(chunk))
            total += len(chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self._hub.trace.answered(self._live.uid, self.status_code, total)
