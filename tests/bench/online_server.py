"""A small server of OpenAI's routes in a thread of the test, which answers as it is told and remembers what came."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Send = Callable[[dict[str, Any]], Awaitable[None]]
OVERHEAD, PER_WORD = 7, 2
"""Tokens that it counts for a prompt of text: so many, and so many for each word."""


class FakeServer:
    """The server; `with` starts and stops it.

    Attributes:
        takes_ids: whether prompts may be token ids, and below which.
        tells_usage: whether it counts tokens.
        delay_s: before the first piece of text and between pieces.
        ways: by number of the request (questions of one token don't count), how it is answered instead:
            `429`, `error-event`, `not-json`, `cut`, `unfinished`, `drop`, `hang`, or a function to call first.
        bodies: what came, parsed, questions of one token left out.
        questions: those.
        left: numbers of the requests whose clients went away.
        headers: of the last request.
        asked: paths of small questions; `/health` is there.
    """

    def __init__(self) -> None:
        self.takes_ids: int | None = 260
        self.tells_usage = True
        self.delay_s = 0.0
        self.ways: dict[int, str | Callable[[], None]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.questions: list[dict[str, Any]] = []
        self.left: list[int] = []
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        config = uvicorn.Config(self._app, port=0, log_level="critical", lifespan="off", interface="asgi3")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Die: open connections are closed, and nobody listens any more."""
        self._server.force_exit = self._server.should_exit = True

    def num_tokens(self, body: dict[str, Any]) -> int:
        prompt = body.get("prompt") or " ".join(message["content"] for message in body["messages"])
        return len(prompt) if isinstance(prompt, list) else OVERHEAD + PER_WORD * len(prompt.split())

    async def _app(self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        if scope["path"] == "/v1/models":
            await _whole(send, 200, {"data": [{"id": "fake"}, {"id": "other"}]})
            return
        if scope["method"] == "GET":
            self.asked.append(scope["path"])
            await _whole(send, 200 if scope["path"] == "/health" else 404, {})
            return
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        content, more = b"", True
        while more:
            message = await receive()
            content, more = content + message["body"], message.get("more_body", False)
        body = json.loads(content)
        prompt = body.get("prompt")
        if isinstance(prompt, list) and (self.takes_ids is None or max(prompt) >= self.takes_ids):
            await _whole(send, 400, {"error": {"message": "no such token id", "code": "invalid_value"}})
        elif body["max_tokens"] == 1 and not body.get("stream"):
            self.questions.append(body)
            await _whole(send, 200, self._answer(body))
        else:
            await self._counted(body, receive, send)

    async def _counted(self, body: dict[str, Any], receive: Any, send: Send) -> None:
        number = len(self.bodies)
        self.bodies.append(body)
        working = asyncio.create_task(self._request(body, number, send))
        watching = asyncio.create_task(receive())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.left.append(number)
                working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        finally:
            watching.cancel()

    async def _request(self, body: dict[str, Any], number: int, send: Send) -> None:
        way = self.ways.get(number, "")
        if not isinstance(way, str):
            way()
        elif way == "429":
            await _whole(send, 429, {"error": {"message": "come back later", "code": "rate_limit"}})
            return
        elif way == "hang":
            await asyncio.sleep(60)
        if not body["stream"]:
            await asyncio.sleep(self.delay_s)
            await _whole(send, 200, self._answer(body))
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await self._stream(body, way, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, body: dict[str, Any], way: object, send: Send) -> None:
        is_chat = "messages" in body

        async def event(data: object) -> None:
            text = data if isinstance(data, str) else json.dumps(data)
            await send({"type": "http.response.body", "body": f"data: {text}\r\n\r\n".encode(), "more_body": True})

        if is_chat:
            await event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for place in range(body["max_tokens"]):
            await asyncio.sleep(self.delay_s)
            if place == 1 and way == "error-event":
                await event({"error": {"message": "the engine broke"}})
                return
            if place == 1 and way == "not-json":
                await event("{nonsense")
            if place == 1 and way == "cut":
                raise ConnectionError  # uvicorn closes the connection in the middle of the stream
            if place == 1 and way == "unfinished":
                return
            await event({"choices": [{"delta": {"content": "x"}} if is_chat else {"text": "x"}]})
        await event({"choices": [{"delta": {}, "text": "", "finish_reason": "length"}]})
        if self.tells_usage and body.get("stream_options"):
            await event({"choices": [], "usage": self._usage(body)})
        await event("[DONE]")

    def _usage(self, body: dict[str, Any]) -> dict[str, int]:
        return {"prompt_tokens": self.num_tokens(body), "completion_tokens": body["max_tokens"]}

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {"choices": [{"text": "x" * body["max_tokens"], "finish_reason": "length"}]}
        return answer | ({"usage": self._usage(body)} if self.tells_usage else {})


async def _whole(send: Send, status: int, body: object) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
