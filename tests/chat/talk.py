"""What the chat's tests talk with: a server made of functions, and a reader of prepared lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from learnsgl.chat.client import ChatClient

URL = "http://127.0.0.1:1"
USAGE = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 30}}
Answer = Callable[[dict[str, Any]], httpx.Response]


class Pieces(httpx.SyncByteStream):
    """A body that comes piece by piece; a piece that is an exception is raised."""

    def __init__(self, pieces: Sequence[bytes | BaseException]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(text: str, finish_reason: str | None = None) -> bytes:
    return event({"id": "chatcmpl-1", "choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]})


def stream(*pieces: bytes | BaseException) -> httpx.Response:
    return httpx.Response(200, stream=Pieces(pieces))


def whole(*texts: str, finish_reason: str = "stop") -> httpx.Response:
    """A streamed answer from its beginning to its end mark."""
    role = event({"id": "chatcmpl-1", "choices": [{"delta": {"role": "assistant", "content": ""}}]})
    usage = event({"id": "chatcmpl-1", "choices": [], "usage": USAGE})
    end = b"data: [DONE]\n\n"
    return stream(role, *(chunk(text) for text in texts), chunk("", finish_reason), usage, end)


def refuse(status: int, code: str, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "code": code, "type": "x", "param": None}})


class Server:
    """Answers requests one after the other, and keeps them.

    Attributes:
        asked: bodies of the questions.
    """

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        if request.method == "POST":
            self.asked.append(json.loads(request.content))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, api_key: str | None = None) -> ChatClient:
        return ChatClient(URL, api_key, transport=httpx.MockTransport(self))


class Lines:
    """A reader that gives lines, or raises what stands in their place."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self._lines = list(lines)

    def read(self) -> str:
        line = self._lines.pop(0) if self._lines else EOFError
        if isinstance(line, str):
            return line
        raise line
