"""The tools of a chat: what a client may send of them, checked, and the messages that hold calls and their results.

`parse.py` calls it. What becomes of tools in the prompt and in the answer's grammar is the tokenizer's work
(`tokenizer/tool_forms.py`); what comes out of the answer, `tool_answers.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from learnsgl.errors import RequestError
from learnsgl.message.types import ToolChoice, ToolsMsg
from learnsgl.server.body import shown
from learnsgl.server.openai import MAX_TOOLS, ChatCompletionRequest, ChatMessage, FunctionTool
from learnsgl.tokenizer.tool_text import MAX_DEPTH, NAME_PATTERN, arguments_of, is_deep

MAX_TOOLS_BYTES = 96 << 10
"""Longest JSON of all tools of a request together."""

_NAME = re.compile(NAME_PATTERN)
_CHOICES = tuple(choice.value for choice in ToolChoice)
_LEGACY = {"functions": "tools", "function_call": "tool_choice"}


def refuse_legacy(fields: Mapping[str, Any]) -> None:
    """OpenAI's former names for tools aren't supported; the error says the present ones.

    Raises:
        RequestError: one of them asks for something.
    """
    for name, instead in _LEGACY.items():
        if fields.get(name) not in (None, [], "none", "auto"):
            raise RequestError(
                f"{name} isn't supported by this server, since OpenAI has replaced it; use {instead}",
                code="unsupported", param=name,
            )  # fmt: skip


def read_tools(request: ChatCompletionRequest) -> ToolsMsg | None:
    """The tools of a chat, and how the answer may use them; `None` where there are none.

    Raises:
        RequestError: there are too many or too large ones, one is malformed, or the choice isn't one of them.
    """
    given = request.tools or []
    if not given:
        if request.tool_choice not in (None, "none", "auto"):
            raise RequestError("tool_choice asks for a call, and there are no tools; give tools", param="tool_choice")
        return None
    if len(given) > MAX_TOOLS:
        raise RequestError(f"tools holds {len(given)} tools; at most {MAX_TOOLS} are allowed", param="tools")
    tools = [_checked(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    names = [tool.function.name for tool in given]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"tools[{index}].function.name"
            raise RequestError(f"{param} is {name!r}, which another tool is called too; rename one", param=param)
    num_bytes = sum(len(tool.encode()) for tool in tools)
    if num_bytes > MAX_TOOLS_BYTES:
        raise RequestError(
            f"tools is {num_bytes} bytes of JSON; at most {MAX_TOOLS_BYTES} are allowed, so give fewer or shorter ones",
            param="tools",
        )
    choice, only = _choice(request.tool_choice, names)
    return ToolsMsg(tools, choice, only, request.parallel_tool_calls is not False)


def _checked(tool: FunctionTool, path: str) -> str:
    """A tool as JSON text, as templates get it."""
    if tool.type != "function":
        raise RequestError(
            f"{path}.type is {shown(tool.type)!r}; only tools of type 'function' are supported",
            code="unsupported", param=f"{path}.type",
        )  # fmt: skip
    function, path = tool.function, f"{path}.function"
    if _NAME.fullmatch(function.name) is None:
        raise RequestError(
            f"{path}.name is {shown(function.name)!r}; it must be 1 to 64 letters of A to Z, digits, _ and -",
            param=f"{path}.name",
        )
    if function.parameters is not None:
        _check_schema(function.parameters, f"{path}.parameters")
    plain = msgspec.structs.asdict(function)
    kept = {name: value for name, value in plain.items() if value is not None}
    return msgspec.json.encode({"type": "function", "function": kept}).decode()


def _check_schema(schema: dict[str, Any], path: str) -> None:
    """What doesn't need the grammar's compiler; that one checks the rest."""
    if schema.get("type", "object") != "object":
        raise RequestError(
            f'{path}.type must be "object", since arguments have names; describe them in {path}.properties',
            param=f"{path}.type",
        )
    if is_deep(schema):
        raise RequestError(f"{path} has more than {MAX_DEPTH} levels; make it flatter", param=path)


def _choice(given: str | dict[str, Any] | None, names: list[str]) -> tuple[ToolChoice, str | None]:
    if given is None:
        return ToolChoice.AUTO, None
    if isinstance(given, str):
        if given not in _CHOICES:
            raise RequestError(
                f"tool_choice is {shown(given)!r}; it must be one of {', '.join(_CHOICES)}, or name a function",
                param="tool_choice",
            )
        return ToolChoice(given), None
    if given.get("type") == "allowed_tools":
        raise RequestError(
            "tool_choice.type allowed_tools isn't supported by this server; send only the tools that are allowed",
            code="unsupported", param="tool_choice.type",
        )  # fmt: skip
    function = given.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if given.get("type") != "function" or not isinstance(name, str):
        raise RequestError(
            'tool_choice names no function; it must look like {"type": "function", "function": {"name": "..."}}',
            param="tool_choice",
        )
    if name not in names:
        param = "tool_choice.function.name"
        raise RequestError(f"{param} is {shown(name)!r}; tools has {', '.join(map(shown, names))}", param=param)
    return ToolChoice.REQUIRED, name


def plain_calls(message: ChatMessage, path: str) -> list[dict[str, Any]]:
    """The calls of a past message, as the tokenizer takes them.

    Raises:
        RequestError: a call is malformed, or isn't the assistant's.
    """
    calls = message.tool_calls or []
    if calls and message.role != "assistant":
        param = f"{path}.tool_calls"
        raise RequestError(f"{param} belongs to messages of the assistant; leave it out", param=param)
    plain = []
    for index, call in enumerate(calls):
        where = f"{path}.tool_calls[{index}]"
        if call.type != "function":
            raise RequestError(
                f"{where}.type is {shown(call.type)!r}; only calls of type 'function' are supported",
                code="unsupported", param=f"{where}.type",
            )  # fmt: skip
        if _NAME.fullmatch(call.function.name) is None:
            param = f"{where}.function.name"
            raise RequestError(f"{param} is {shown(call.function.name)!r}, and no function is called so", param=param)
        if arguments_of(call.function.arguments) is None:
            param = f"{where}.function.arguments"
            raise RequestError(
                f"{param} isn't the JSON text of an object of at most {MAX_DEPTH} levels; a call that was cut off "
                "can't be sent back",
                param=param,
            )
        plain.append(msgspec.to_builtins(call))
    return plain
