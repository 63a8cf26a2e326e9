"""A client of the OpenAI API, as small as a chat needs it: which models there are, and a streamed answer.

Each question has a connection of its own: when an answer is stopped, closing it is what tells the server to stop.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from learnsgl.chat.sse import event_data
from learnsgl.errors import OptionError, RequestError, ServingError

CONNECT_S = 5.0
MODELS_S = 10.0
READ_S = 300.0
"""A long prompt may take minutes on a small machine before its first token."""
NO_ACCESS = (401, 403)
"""Statuses of a server that wants another key, or one at all."""
KEY_HINT = "Give its key with --api-key, or as $LEARNSGL_API_KEY or, for a --url, $OPENAI_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STREAM_END = "[DONE]"


@dataclass
class Reply:
    """One answer, as far as it has come.

    Attributes:
        text: the text so far.
        finish_reason: why it ended; `None` while it hasn't.
        request_id: the server's id of it.
        usage: the server's count of tokens, once it has told it.
        asked_ns: when the question was sent, on `time.monotonic_ns`.
        first_ns, last_ns: when the first and the last text came.
    """

    text: str = ""
    finish_reason: str | None = None
    request_id: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    asked_ns: int = field(default_factory=time.monotonic_ns)
    first_ns: int | None = None
    last_ns: int | None = None

    def take(self, chunk: Mapping[str, Any]) -> str:
        """Take an event of the stream; returns its text."""
        self.request_id = chunk.get("id") or self.request_id
        self.usage = chunk.get("usage") or self.usage
        text = ""
        for choice in chunk.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            text += (choice.get("delta") or {}).get("content") or ""
        if text:
            self.text += text
            self.last_ns = time.monotonic_ns()
            self.first_ns = self.first_ns or self.last_ns
        return text


class ChatClient:
    """Speaks to one server.

    Args:
        url: where it is, with or without `/v1`.
        api_key: sent along, if the server wants one.
        transport: carries the requests; a test puts a fake in its place.

    Attributes:
        url: where it is, without `/v1`.

    Raises:
        OptionError: it isn't a URL.
    """

    def __init__(self, url: str, api_key: str | None = None, *, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise OptionError(f"--url is {url!r}: {error}; give one such as http://127.0.0.1:8000") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise OptionError(f"--url is {url!r}; give one that begins with http:// or https://, and a host")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._use_proxy = parsed.host not in _LOOPBACK
        self._transport = transport

    def models(self) -> list[str]:
        """Names of the server's models.

        Raises:
            ServingError: nobody answers, or it isn't such a server.
            RequestError: it refuses, perhaps for want of a key.
        """
        with self._explained(), self._http() as http:
            response = http.get("/v1/models", timeout=MODELS_S)
            if response.is_error:
                raise refusal(response)
            try:
                return [str(model["id"]) for model in response.json()["data"]]
            except (ValueError, LookupError, TypeError):
                raise ServingError(f"{self.url} is no OpenAI-compatible server: /v1/models holds no models") from None

    def ask(
        self, reply: Reply, model: str, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]
    ) -> Iterator[str]:
        """Put a question, and give the text of its answer as it comes. Leaving the iterator stops the server's work.

        Args:
            reply: what has come so far is kept in it.
            model: name of the model.
            messages: the conversation, the question last.
            options: sampling fields of the request.

        Raises:
            RequestError: the server refused.
            ServingError: it can't be reached, went away, or broke the answer off.
        """
        body = {"model": model, "messages": list(messages), "stream": True, **options}
        body["stream_options"] = {"include_usage": True}
        with (
            self._explained(),
            self._http() as http,
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if response.is_error:
                response.read()
                raise refusal(response)
            for data in event_data(response.iter_bytes()):
                if data == _STREAM_END:
                    return
                yield reply.take(self._chunk(data))
        if reply.finish_reason is None:
            raise ServingError(f"{self.url} broke the answer off")

    def _chunk(self, data: str) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise ServingError(f"{self.url} sent an event that is no JSON object: {data[:80]!r}")
        if error := chunk.get("error"):
            message = error.get("message") if isinstance(error, dict) else error
            raise ServingError(f"{self.url} broke the answer off: {message}")
        return chunk

    def _http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers=self._headers, timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            trust_env=self._use_proxy, transport=self._transport,
        )  # fmt: skip

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ServingError(f"nobody answers at {self.url} ({error})") from None
        except httpx.HTTPError as error:
            raise ServingError(f"the connection to {self.url} broke: {str(error) or type(error).__name__}") from None


def refusal(response: httpx.Response) -> RequestError:
    """The error that a response carries, in OpenAI's form or another."""
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        message, code = f"HTTP {response.status_code} {response.reason_phrase}", ""
    return RequestError(message, status=response.status_code, code=code)
