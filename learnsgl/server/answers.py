"""What clients of the OpenAI routes get: bodies and chunks.

`streams.py` and `api_server.py` fill these forms with what the workers give; those of SGLang's `/generate` are in
`generate_answer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from learnsgl.message.types import Ending
from learnsgl.server.live import LiveRequest
from learnsgl.server.live_choice import Piece
from learnsgl.server.logprobs import chat_logprobs, completion_logprobs
from learnsgl.server.sse import Chunk, sse
from learnsgl.server.tool_answers import CallShapes, finish_reason_of
from learnsgl.tokenizer.tool_parser import CallDelta

_encode = msgspec.json.Encoder().encode


def usage_of(live: LiveRequest) -> dict[str, Any]:
    """OpenAI's `usage`: each prompt counts once, and every choice's tokens do."""
    endings = [choice.ending for choice in live.choices if choice.ending is not None]
    firsts = [ending for ending in endings if ending.choice == 0]
    num_prompt = sum(ending.num_prompt_tokens for ending in firsts)
    num_generated = sum(ending.num_generated_tokens for ending in endings)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {"cached_tokens": sum(ending.num_cached_tokens for ending in firsts)},
    }


class ChatAnswer:
    """The form of one answer of `/v1/chat/completions`.

    Args:
        live: the request that it answers.
        request_id: the answer's id, the same in all its chunks.
        created: when the request came, in seconds since 1970.
        model: name of the model.
    """

    def __init__(self, live: LiveRequest, request_id: str, created: int, model: str) -> None:
        self._live = live
        self._head = {"id": f"chatcmpl-{request_id}", "created": created, "model": model}
        self._include_usage = live.request.include_usage
        self._calls = CallShapes(request_id)

    def opening(self, index: int) -> Chunk:
        """The first chunk of a choice, which says who speaks. Where calls may come, there may be no content."""
        content = "" if self._live.choices[index].parser is None else None
        return self._chunk(index, {"role": "assistant", "content": content}, None)

    def content(self, piece: Piece) -> Chunk:
        """A chunk with new text, or with log-probabilities of what isn't in the text."""
        delta = {"content": piece.text} if piece.text or self._live.choices[piece.index].parser is None else {}
        return self._chunk(piece.index, delta, None, self._logprobs(piece))

    def call(self, index: int, delta: CallDelta) -> Chunk:
        """A chunk with what is new of a tool call."""
        return self._chunk(index, {"tool_calls": [self._calls.delta(index, delta)]}, None)

    def closing(self, index: int, ending: Ending) -> Chunk:
        """The chunk that says why a choice ended."""
        return self._chunk(index, {}, ending)

    def usage(self) -> Chunk | None:
        """The chunk with the usage, where the client asked for it."""
        if not self._include_usage:
            return None
        usage = usage_of(self._live)
        return Chunk(sse(_encode(self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage})))

    def whole(self, pieces: Sequence[Piece]) -> bytes:
        """The body of an answer that isn't streamed."""
        choices = [
            {
                "index": piece.index,
                "message": self._message(piece),
                "logprobs": self._logprobs(piece),
                "finish_reason": self._finish_reason(piece.index, piece.ending),
            }
            for piece in pieces
        ]
        body = {"object": "chat.completion", "choices": choices, "usage": usage_of(self._live)}
        return _encode(self._head | body)

    def _message(self, piece: Piece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
        if calls := self._calls.whole(piece.index, piece.calls):
            message |= {"content": piece.text or None, "tool_calls": calls}
        return message

    def _finish_reason(self, index: int, ending: Ending | None) -> str | None:
        return None if ending is None else finish_reason_of(self._live.choices[index], ending.reason)

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        wanted = self._live.choices[piece.index].prompt.sampling.logprobs is not None
        return chat_logprobs(piece.logprobs) if wanted else None

    def _chunk(
        self, index: int, delta: dict[str, Any], ending: Ending | None, logprobs: dict[str, Any] | None = None
    ) -> Chunk:
        reason = self._finish_reason(index, ending)
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        body: dict[str, Any] = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        if self._include_usage:
            body["usage"] = None
        return Chunk(sse(_encode(body)), index)


class CompletionAnswer:
    """The form of one answer of `/v1/completions`; the arguments are those of `ChatAnswer`."""

    def __init__(self, live: LiveRequest, request_id: str, created: int, model: str) -> None:
        self._live = live
        self._head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": created, "model": model}
        self._include_usage = live.request.include_usage

    def content(self, piece: Piece) -> Chunk:
        """A chunk with new text."""
        return self._chunk(piece, None)

    def closing(self, index: int, ending: Ending) -> Chunk:
        """The chunk that says why a choice ended."""
        return self._chunk(Piece(index, ""), ending)

    def usage(self) -> Chunk | None:
        """The chunk with the usage, where the client asked for it."""
        if not self._include_usage:
            return None
        return Chunk(sse(_encode(self._head | {"choices": [], "usage": usage_of(self._live)})))

    def whole(self, pieces: Sequence[Piece]) -> bytes:
        """The body of an answer that isn't streamed."""
        choices = [self._choice(piece, piece.ending) for piece in pieces]
        return _encode(self._head | {"choices": choices, "usage": usage_of(self._live)})

    def _choice(self, piece: Piece, ending: Ending | None) -> dict[str, Any]:
        wanted = self._live.choices[piece.index].prompt.sampling.logprobs is not None
        # the chunk that says why it ended has neither text nor tokens
        logprobs = completion_logprobs(piece.logprobs) if wanted and (piece.logprobs or piece.text) else None
        return {"index": piece.index, "text": piece.text, "logprobs": logprobs, **_end_of(ending)}

    def _chunk(self, piece: Piece, ending: Ending | None) -> Chunk:
        body: dict[str, Any] = self._head | {"choices": [self._choice(piece, ending)]}
        if self._include_usage:
            body["usage"] = None
        return Chunk(sse(_encode(body)), piece.index)


def _end_of(ending: Ending | None) -> dict[str, Any]:
    """The fields that say why a choice ended."""
    return {"finish_reason": None if ending is None else ending.reason.value}
