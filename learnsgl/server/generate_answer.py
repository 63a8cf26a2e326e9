"""What clients of SGLang's `/generate` get: bodies and events.

`streams.py` and `api_server.py` fill this form with what the workers give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from learnsgl.core import FinishReason
from learnsgl.message.types import Ending
from learnsgl.server.live import LiveRequest, Piece
from learnsgl.server.sse import Chunk, sse

_encode = msgspec.json.Encoder().encode


class GenerateAnswer:
    """The form of one answer of `/generate`. As in SGLang, each event of a stream holds all of the text so far.

    Args:
        live: the request that it answers.
        request_id: the answer's id.
    """

    def __init__(self, live: LiveRequest, request_id: str) -> None:
        self._live = live
        self._id = request_id
        self._is_list = len(live.choices) > 1

    def so_far(self, piece: Piece) -> Chunk:
        """An event with all of the text so far, and with the ending, once that is there."""
        return Chunk(sse(_encode(self._one(piece))), piece.index)

    def whole(self, pieces: Sequence[Piece]) -> bytes:
        """The body of an answer that isn't streamed: an object, or a list where there are several."""
        all_of_them = [self._one(piece) for piece in pieces]
        return _encode(all_of_them if self._is_list else all_of_them[0])

    def _one(self, piece: Piece) -> dict[str, Any]:
        meta: dict[str, Any] = {"id": self._id, "finish_reason": None}
        body = {"text": piece.text, "meta_info": meta | _about(piece.ending)}
        return body | {"index": piece.index} if self._is_list else body


def _about(ending: Ending | None) -> dict[str, Any]:
    """What `meta_info` says of an ending."""
    if ending is None:
        return {}
    reason: dict[str, Any] = {"type": ending.reason.value}
    if ending.reason is FinishReason.LENGTH:
        reason["length"] = ending.num_generated_tokens
    elif ending.matched is not None:
        reason["matched"] = ending.matched
    return {
        "finish_reason": reason,
        "prompt_tokens": ending.num_prompt_tokens,
        "completion_tokens": ending.num_generated_tokens,
        "cached_tokens": ending.num_cached_tokens,
    }
