"""Tool calls in the shapes of OpenAI's chats: whole in a message, and in the deltas of a stream.

`answers.py` puts them into its bodies and chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learnsgl.core import FinishReason
from learnsgl.server.live_choice import LiveChoice
from learnsgl.tokenizer.tool_parser import CallDelta


class CallShapes:
    """The calls of one answer.

    A call's id is made of the answer's id, the choice's number and its own, so it is the same whenever it is told, and
    no other answer has it.

    Args:
        request_id: the answer's id.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def whole(self, choice: int, deltas: Sequence[CallDelta]) -> list[dict[str, Any]]:
        """`tool_calls` of a message.

        Args:
            choice: number of the choice.
            deltas: all that came of its calls.
        """
        names = [delta.name for delta in deltas if delta.name is not None]
        return [
            {
                "id": self._id(choice, index),
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": "".join(delta.arguments for delta in deltas if delta.index == index),
                },
            }
            for index, name in enumerate(names)
        ]

    def delta(self, choice: int, delta: CallDelta) -> dict[str, Any]:
        """One element of `tool_calls` in a chunk: the first of a call says what is called, the others how."""
        if delta.name is None:
            return {"index": delta.index, "function": {"arguments": delta.arguments}}
        function = {"name": delta.name, "arguments": delta.arguments}
        return {"index": delta.index, "id": self._id(choice, delta.index), "type": "function", "function": function}

    def _id(self, choice: int, index: int) -> str:
        return f"call_{self._request_id}_{choice}_{index}"


def finish_reason_of(choice: LiveChoice, reason: FinishReason) -> str:
    """OpenAI's word for the end of a choice.

    `tool_calls` where the answer ended by itself with whole calls; `stop` where one function was forced, as OpenAI has
    it. An answer that was cut says so, whatever it holds.
    """
    parser, tools = choice.parser, choice.prompt.tools
    if reason is not FinishReason.STOP or parser is None or not parser.num_calls or parser.is_open:
        return reason.value
    return reason.value if tools is not None and tools.only is not None else "tool_calls"
