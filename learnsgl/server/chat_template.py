"""How a client wants its chat rendered: vLLM's and SGLang's fields that reach the model's chat template.

The parsers of `/v1/chat/completions` and `/tokenize` call `read_template`; the tokenizer renders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from learnsgl.errors import RequestError
from learnsgl.message.types import TemplateMsg

_OURS = frozenset(
    {
        "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt",
        "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
        "return_assistant_tokens_mask", "tokenizer_kwargs",
    }
)  # fmt: skip
"""Names that transformers' `apply_chat_template` takes for itself, or that have a field of their own."""


class Templated(Protocol):
    """The fields that say how a chat is rendered, in whichever schema."""

    add_generation_prompt: bool | None
    continue_final_message: bool | None
    chat_template_kwargs: dict[str, Any] | None


def read_template(fields: Templated, messages: Sequence[Mapping[str, Any]]) -> TemplateMsg | None:
    """What the tokenizer is told beside the messages; `None` where the chat is rendered as usual.

    Args:
        fields: the client's.
        messages: the chat, as `plain_message` gives it.

    Raises:
        RequestError: the fields contradict each other, or there is nothing to continue, or a variable has a name that
            isn't the client's to set.
    """
    continues = bool(fields.continue_final_message)
    if continues:
        _check_can_continue(fields, messages)
    values = fields.chat_template_kwargs or {}
    taken = sorted(_OURS & values.keys())
    if taken:
        raise RequestError(
            f"chat_template_kwargs holds {', '.join(taken)}, which isn't a variable of the template; leave it out"
            " (messages, tools, add_generation_prompt and continue_final_message are fields of their own)",
            param="chat_template_kwargs",
        )
    adds = not continues and fields.add_generation_prompt is not False
    if adds and not values:
        return None
    return TemplateMsg(adds, continues, _json(values) if values else None)


def refuse_without_chat(fields: Templated) -> None:
    """Text isn't rendered.

    Raises:
        RequestError: a field asks for something all the same.
    """
    asks = {
        "add_generation_prompt": fields.add_generation_prompt is False,
        "continue_final_message": fields.continue_final_message,
        "chat_template_kwargs": fields.chat_template_kwargs,
    }
    for name, is_asked in asks.items():
        if is_asked:
            raise RequestError(f"{name} says how messages are rendered, and there are none; leave it out", param=name)


def _json(values: Mapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(values).decode()
    except RecursionError:
        param = "chat_template_kwargs"
        raise RequestError(f"{param} is nested too deeply; make it flatter", param=param) from None


def _check_can_continue(fields: Templated, messages: Sequence[Mapping[str, Any]]) -> None:
    param = "continue_final_message"
    if fields.add_generation_prompt:
        raise RequestError(
            f"{param} and add_generation_prompt are both true; a message that goes on has no place for the "
            "beginning of another: leave add_generation_prompt out",
            param=param,
        )
    last = messages[-1]
    if last["role"] != "assistant" or not last["content"] or "tool_calls" in last:
        raise RequestError(
            f"{param} is true, and the last message isn't the beginning of an answer; end messages with one of "
            'role "assistant" that has content and no tool_calls',
            param=param,
        )
