"""What clients of SGLang's `/generate` get: bodies and events.

`streams.py` and `api_server.py` fill this form with what the workers give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from learnsgl.core import FinishReason
from learnsgl.message.types import Ending
from learnsgl.server.live import LiveRequest
from learnsgl.server.live_choice import LiveChoice, Piece
from learnsgl.server.logprobs import generate_logprobs
from learnsgl.server.new_request import GenerateOptions
from learnsgl.server.sse import Chunk, sse

_encode = msgspec.json.Encoder().encode


class GenerateAnswer:
    """The form of one answer of `/generate`. As in SGLang, each event of a stream holds all of the text so far.

    Args:
        live: the request that it answers.
        options: what it asks for.
        ids: the ids of its prompts, as the client is told them.
    """

    def __init__(self, live: LiveRequest, options: GenerateOptions, ids: Sequence[str]) -> None:
        self._live = live
        self._options = options
        self._ids = dict(zip(live.uids, ids, strict=True))
        self._starts = dict(zip(live.uids, options.starts, strict=True))

    def so_far(self, piece: Piece) -> Chunk:
        """An event with all of the text so far, and with the ending, once that is there."""
        return Chunk(sse(_encode(self._one(piece))), piece.index)

    def whole(self, pieces: Sequence[Piece]) -> bytes:
        """The body of an answer that isn't streamed: an object, or a list where prompts or choices are several."""
        all_of_them = [self._one(piece) for piece in pieces]
        return _encode(all_of_them if self._options.is_list else all_of_them[0])

    def _one(self, piece: Piece) -> dict[str, Any]:
        choice = self._live.choices[piece.index]
        meta: dict[str, Any] = {"id": self._ids[choice.key.uid], "finish_reason": None}
        meta |= _about(piece.ending) | self._logprobs(choice, piece)
        body = {"text": piece.text, "meta_info": meta}
        return body | {"index": piece.index} if self._options.is_list else body

    def _logprobs(self, choice: LiveChoice, piece: Piece) -> dict[str, Any]:
        start = self._starts[choice.key.uid]
        if start is None:
            return {}
        prompt = self._live.prompts[choice.key.uid].logprobs[start:] if start >= 0 else []
        with_text = self._options.with_text
        of_prompt = generate_logprobs(prompt, "input", with_text=with_text)
        return of_prompt | generate_logprobs(piece.logprobs, "output", with_text=with_text)


def _about(ending: Ending | None) -> dict[str, Any]:
    """What `meta_info` says of an ending."""
    if ending is None:
        return {}
    reason: dict[str, Any] = {"type": ending.reason.value}
    if ending.reason is FinishReason.LENGTH:
        reason["length"] = ending.num_generated_tokens
    elif ending.reason is FinishReason.ABORT:
        reason["message"] = "the request was aborted"
    elif ending.matched is not None:
        reason["matched"] = ending.matched
    return {
        "finish_reason": reason,
        "prompt_tokens": ending.num_prompt_tokens,
        "completion_tokens": ending.num_generated_tokens,
        "cached_tokens": ending.num_cached_tokens,
    }
