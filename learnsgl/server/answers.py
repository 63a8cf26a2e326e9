"""What clients get: the bodies and the stream chunks of the OpenAI routes and of SGLang's `/generate`.

`api_server.py` fills these forms with the text and the ending that the workers give.
"""

from __future__ import annotations

from typing import Any

import msgspec

from learnsgl.message.types import Ending

STREAM_END = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def sse(body: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + body + b"\n\n"


def usage_of(ending: Ending) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": ending.num_prompt_tokens,
        "completion_tokens": ending.num_generated_tokens,
        "total_tokens": ending.num_prompt_tokens + ending.num_generated_tokens,
        "prompt_tokens_details": {"cached_tokens": ending.num_cached_tokens},
    }


class ChatAnswer:
    """The form of one answer of `/v1/chat/completions`.

    Args:
        request_id: the answer's id, the same in all its chunks.
        created: when the request came, in seconds since 1970.
        model: name of the model.
        include_usage: whether the stream carries the usage.
    """

    def __init__(self, request_id: str, created: int, model: str, include_usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": created, "model": model}
        self._include_usage = include_usage

    def opening(self) -> bytes:
        """The first chunk, which says who speaks."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def content(self, text: str) -> bytes:
        """A chunk with new text."""
        return self._chunk({"content": text}, None)

    def closing(self, ending: Ending) -> bytes:
        """The chunk that says why it ended."""
        return self._chunk({}, ending.reason.value)

    def usage(self, ending: Ending) -> bytes | None:
        """The chunk with the usage, where the client asked for it."""
        if not self._include_usage:
            return None
        body = self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage_of(ending)}
        return sse(_encode(body))

    def whole(self, text: str, ending: Ending) -> bytes:
        """The body of an answer that isn't streamed."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ending.reason.value}
        return _encode(self._head | {"object": "chat.completion", "choices": [choice], "usage": usage_of(ending)})

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        body: dict[str, Any] = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        if self._include_usage:
            body["usage"] = None
        return sse(_encode(body))


class CompletionAnswer:
    """The form of one answer of `/v1/completions`; the arguments are those of `ChatAnswer`."""

    def __init__(self, request_id: str, created: int, model: str, include_usage: bool) -> None:
        self._head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": created, "model": model}
        self._include_usage = include_usage

    def content(self, text: str) -> bytes:
        """A chunk with new text."""
        return self._chunk(text, None)

    def closing(self, ending: Ending) -> bytes:
        """The chunk that says why it ended."""
        return self._chunk("", ending.reason.value)

    def usage(self, ending: Ending) -> bytes | None:
        """The chunk with the usage, where the client asked for it."""
        return sse(_encode(self._head | {"choices": [], "usage": usage_of(ending)})) if self._include_usage else None

    def whole(self, text: str, ending: Ending) -> bytes:
        """The body of an answer that isn't streamed."""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": ending.reason.value}
        return _encode(self._head | {"choices": [choice], "usage": usage_of(ending)})

    def _chunk(self, text: str, finish_reason: str | None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        body: dict[str, Any] = self._head | {"choices": [choice]}
        if self._include_usage:
            body["usage"] = None
        return sse(_encode(body))


class GenerateAnswer:
    """The form of one answer of `/generate`. As in SGLang, each event of a stream holds all of the text so far.

    Args:
        request_id: the answer's id.
    """

    def __init__(self, request_id: str) -> None:
        self._id = request_id

    def so_far(self, text: str) -> bytes:
        """An event while the answer grows."""
        return sse(_encode({"text": text, "meta_info": {"id": self._id, "finish_reason": None}}))

    def closing(self, text: str, ending: Ending) -> bytes:
        """The last event."""
        return sse(self.whole(text, ending))

    def whole(self, text: str, ending: Ending) -> bytes:
        """The body of an answer that isn't streamed."""
        reason: dict[str, Any] = {"type": ending.reason.value}
        if ending.reason.value == "length":
            reason["length"] = ending.num_generated_tokens
        meta = {
            "id": self._id,
            "finish_reason": reason,
            "prompt_tokens": ending.num_prompt_tokens,
            "completion_tokens": ending.num_generated_tokens,
            "cached_tokens": ending.num_cached_tokens,
        }
        return _encode({"text": text, "meta_info": meta})
