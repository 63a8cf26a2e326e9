"""How the tools of a chat, past calls and their results come into the prompt.

`tokenize.py` calls it for every chat. A model whose template renders tools gets them from the template, in the form
that it was trained on; for any other model they are written into the messages as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2
import msgspec

from learnsgl.message.types import TemplateMsg, ToolsMsg
from learnsgl.tokenizer.tool_forms import CALL_BEGIN, CALL_END, CallForm, tools_of
from learnsgl.tokenizer.tool_text import arguments_of

Message = dict[str, Any]
Render = Callable[[Sequence[Message], Sequence[Mapping[str, Any]] | None, TemplateMsg], str]
"""The text of messages and tools, as the model's chat template renders them with what the client wants of it."""

AS_USUAL = TemplateMsg()
"""Up to where the answer begins, with no more variables."""
RENDER_ERRORS = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError
)  # fmt: skip
"""What a template raises: it refuses with `raise_exception`, or trips over what it didn't expect."""

RESULT_BEGIN = "<tool_response>"
RESULT_END = "</tool_response>"
_MARKER = "marker_of_learnsgl"
_CALL_FORMS = {
    CallForm.HERMES: rf'{CALL_BEGIN}\s*\{{"name": ?"{_MARKER}", ?"arguments": ?\{{"a": ?1\}}\}}\s*{CALL_END}',
    CallForm.LLAMA: rf'\{{("type": ?"function", ?)?"name": ?"{_MARKER}", ?"parameters": ?\{{"a": ?1\}}\}}',
}
"""What a past call looks like in the prompt of a template that speaks this form."""
_INTRODUCTION = "You can call functions. Each line describes one as JSON, its parameters as a JSON Schema:"
_INSTRUCTION = f"""To call a function, answer with a JSON object of its name and its arguments between these marks:
{CALL_BEGIN}
{{"name": "...", "arguments": {{...}}}}
{CALL_END}
What it gave comes back between {RESULT_BEGIN} and {RESULT_END}. Where no function helps, answer without one."""


class ToolPrompt:
    """How one model's chats are rendered, with tools and without.

    Args:
        render: the model's chat template; it raises `RENDER_ERRORS`.
    """

    def __init__(self, render: Render) -> None:
        self._render = render

    def render(self, messages: Sequence[Message], asked: ToolsMsg | None, template: TemplateMsg = AS_USUAL) -> str:
        """The text of a chat.

        Args:
            messages: with content as text; past calls have their arguments as JSON text.
            asked: the tools that the chat may call, if there are any.
            template: where the text ends, and more variables.
        """
        tools = [] if asked is None else tools_of(asked)
        chat = [_with_arguments(message) for message in messages]
        has_past = any(message["role"] == "tool" or "tool_calls" in message for message in chat)
        if not tools and not has_past:
            return self._render(chat, None, template)
        if self.form is not CallForm.GENERIC:
            return self._render(chat, tools or None, template)
        return self._render(self._told(as_text(chat), tools) if tools else as_text(chat), None, template)

    @cached_property
    def form(self) -> CallForm:
        """Which form the template speaks, found by rendering a tool, a call of it and the result."""
        function = {"name": _MARKER, "description": _MARKER, "parameters": {"type": "object", "properties": {}}}
        call = {"id": "call00000", "type": "function", "function": {"name": _MARKER, "arguments": {"a": 1}}}
        question: Message = {"role": "user", "content": "?"}
        past = [
            question,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "!", "name": _MARKER, "tool_call_id": "call00000"},
        ]
        tools = [{"type": "function", "function": function}]
        try:
            knows_tools = _MARKER in self._render([question], tools, AS_USUAL)
            text = self._render(past, tools, AS_USUAL)
        except RENDER_ERRORS:
            return CallForm.GENERIC
        found = (form for form, pattern in _CALL_FORMS.items() if re.search(pattern, text))
        return next(found, CallForm.GENERIC) if knows_tools else CallForm.GENERIC

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template has a place for a system message."""
        try:
            chat = [{"role": "system", "content": _MARKER}, {"role": "user", "content": "?"}]
            text = self._render(chat, None, AS_USUAL)
        except RENDER_ERRORS:
            return False
        return _MARKER in text

    def _told(self, messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
        """The chat with its tools in its system message, or, where there can't be one, in its first message."""
        text = "\n".join([_INTRODUCTION, *(_json(tool["function"]) for tool in tools), "", _INSTRUCTION])
        first = messages[0]
        if first["role"] == "system":
            return [first | {"content": f"{first['content']}\n\n{text}".lstrip()}, *messages[1:]]
        if self._takes_system:
            return [{"role": "system", "content": text}, *messages]
        return [first | {"content": f"{text}\n\n{first['content']}"}, *messages[1:]]


def as_text(messages: Sequence[Message]) -> list[Message]:
    """The same chat with calls and results as text, for a template that knows nothing of them.

    Calls are text of the assistant's, and results come from the user, since some templates know no other role. Results
    that follow each other are one message.

    Args:
        messages: past calls have their arguments as objects.
    """
    plain: list[Message] = []
    was_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result and was_result:
            plain[-1]["content"] += "\n" + _result(message)
        elif is_result:
            plain.append({"role": "user", "content": _result(message)})
        else:
            kept = {name: value for name, value in message.items() if name != "tool_calls"}
            calls = [call_text(call["function"]) for call in message.get("tool_calls", ())]
            plain.append(kept | {"content": "\n".join(text for text in (kept["content"], *calls) if text)})
        was_result = is_result
    return plain


def call_text(function: Mapping[str, Any]) -> str:
    """A call as the model is to write it; `function` holds `name`, and `arguments` as an object."""
    return f"{CALL_BEGIN}\n{_json({'name': function['name'], 'arguments': function['arguments']})}\n{CALL_END}"


def _with_arguments(message: Message) -> Message:
    """A message whose calls have their arguments as objects, as templates want them."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    functions = [{**call["function"], "arguments": arguments_of(call["function"]["arguments"]) or {}} for call in calls]
    return message | {
        "tool_calls": [{**call, "function": function} for call, function in zip(calls, functions, strict=True)]
    }


def _result(message: Message) -> str:
    return f"{RESULT_BEGIN}\n{message['content']}\n{RESULT_END}"


def _json(value: Any) -> str:
    """JSON with a space behind commas and colons, as in models' training data."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
