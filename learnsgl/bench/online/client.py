"""Sends one request and writes down what its client sees: when text came, how it ended, what went wrong.

`drive.py` calls `Client.send` for every request of a plan. Nothing raises but Ctrl-C: a failure is a row like others.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import msgspec

from learnsgl.bench.online.plan import Planned
from learnsgl.bench.online.results import Outcome, Row, seconds_since
from learnsgl.bench.online.settings import Endpoint
from learnsgl.chat.client import refusal

_MAX_ERROR_CHARS = 300


class _Text(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Text | None = None
    finish_reason: str | None = None

    @property
    def has_text(self) -> bool:
        delta = self.delta
        return bool(self.text or (delta and (delta.content or delta.reasoning_content or delta.reasoning)))


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Answer(msgspec.Struct):
    """An event of a stream, or a whole answer, as far as it matters here."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Events:
    """Takes a stream's bytes, cut anywhere, and gives the data of the events that are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each line that ends within `chunk`; comments and other fields are left out."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


class Broken(Exception):
    """The answer ended in a way that isn't a complete answer.

    Args:
        outcome: which way.
        message: what is known of it.
    """

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class Client:
    """Sends requests to one server.

    Args:
        http: whose base URL is the server's.
        endpoint: which route.
        fields: of every request's body, the model's name among them.
        timeout_s: after so long a request counts as failed.
    """

    def __init__(self, http: httpx.AsyncClient, endpoint: Endpoint, fields: dict[str, Any], timeout_s: float) -> None:
        self._http = http
        self._endpoint = endpoint
        self._fields = fields
        self._timeout_s = timeout_s
        self._decoder = msgspec.json.Decoder(Answer)

    async def send(self, planned: Planned, row: Row, start_s: float) -> None:
        """Send a request, and fill in its row.

        Args:
            planned: the request.
            row: with its times so far.
            start_s: when the run began, on `time.monotonic`.

        Raises:
            CancelledError: the benchmark is being stopped; the row says so.
        """
        limit_s = start_s + row.sent_s + self._timeout_s
        leaves_s = None
        if planned.leaves_after_s is not None:
            leaves_s = start_s + row.intended_s + planned.leaves_after_s
        first_limit_s = limit_s if leaves_s is None else min(limit_s, leaves_s)
        try:
            async with asyncio.timeout(first_limit_s - time.monotonic()):
                await self._exchange(planned, row, start_s)
        except TimeoutError:
            row.outcome = Outcome.LEFT if first_limit_s == leaves_s else Outcome.TIMEOUT
            row.error = "" if row.outcome is Outcome.LEFT else f"not complete after {self._timeout_s:g} s"
        except asyncio.CancelledError:
            row.outcome = Outcome.STOPPED
            raise
        except Broken as error:
            row.outcome, row.error = error.outcome, str(error)[:_MAX_ERROR_CHARS]
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            row.outcome, row.error = Outcome.UNREACHABLE, _words(error)
        except (httpx.HTTPError, OSError) as error:
            row.outcome, row.error = Outcome.BROKEN_OFF, _words(error)
        finally:
            row.end_s = seconds_since(start_s)

    def body(self, planned: Planned) -> bytes:
        """The body of a request."""
        body = self._fields | {"stream": planned.stream}
        if self._endpoint is Endpoint.COMPLETIONS:
            body["prompt"] = planned.prompt
        elif isinstance(planned.prompt, str):
            body["messages"] = [{"role": "user", "content": planned.prompt}]
        else:
            body["messages"] = planned.prompt
        if planned.max_tokens is not None:
            body["max_tokens"] = planned.max_tokens
        if planned.stream:
            body["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(body)

    async def _exchange(self, planned: Planned, row: Row, start_s: float) -> None:
        headers = {"Content-Type": "application/json"}
        async with self._http.stream(
            "POST", self._endpoint.path, content=self.body(planned), headers=headers
        ) as response:
            row.status = response.status_code
            if response.is_error:
                await response.aread()
                raise Broken(Outcome.STATUS, str(refusal(response)))
            if planned.stream:
                await self._read_stream(response, row, start_s)
            else:
                self._take(row, self._decode(await response.aread()))

    async def _read_stream(self, response: httpx.Response, row: Row, start_s: float) -> None:
        events, finished, num_pieces = Events(), False, 0
        async for chunk in response.aiter_raw():
            now_s = seconds_since(start_s)
            for data in events.feed(chunk):
                if data == b"[DONE]":
                    continue
                answer = self._decode(data)
                self._take(row, answer)
                for choice in answer.choices:
                    finished |= choice.finish_reason is not None
                    if choice.has_text:
                        num_pieces += 1
                        _note_piece(row, now_s)
                if not row.counted_by_server:
                    row.output_tokens = num_pieces
        if not finished:
            raise Broken(Outcome.BROKEN_OFF, "the stream ended before the answer did")

    def _decode(self, data: bytes) -> Answer:
        try:
            answer = self._decoder.decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Broken(Outcome.MALFORMED, f"{error}: {data[:80]!r}") from None
        if answer.error:
            message = answer.error.get("message", "") if isinstance(answer.error, dict) else answer.error
            raise Broken(Outcome.ERROR_EVENT, str(message))
        return answer

    def _take(self, row: Row, answer: Answer) -> None:
        """Take the server's count of tokens, where there is one."""
        if answer.usage is None:
            return
        row.prompt_tokens = answer.usage.prompt_tokens
        if answer.usage.completion_tokens is not None:
            row.output_tokens, row.counted_by_server = answer.usage.completion_tokens, True


def _note_piece(row: Row, now_s: float) -> None:
    if row.last_s is None:
        row.first_s = now_s
    else:
        row.gaps_ms.append(round(1e3 * (now_s - row.last_s), 3))
    row.last_s = now_s


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:_MAX_ERROR_CHARS]
