"""What a client may send of tools, and which field an error names when it sends something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from learnsgl.errors import RequestError
from learnsgl.message.types import ToolChoice, ToolsMsg
from learnsgl.server.new_request import NewPrompt
from learnsgl.server.parse import parse_chat

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "A"}]
CALL: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def parsed(**fields: Any) -> NewPrompt:
    body = {"model": "m", "messages": HELLO, **fields}
    return parse_chat(json.dumps(body).encode(), "m").prompts[0]


def tools_of(**fields: Any) -> ToolsMsg:
    tools = parsed(**({"tools": [tool(), tool("g")]} | fields)).tools
    assert tools is not None
    return tools


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


def test_tools_and_choices() -> None:
    assert parsed().tools is None
    for nothing in ({"tools": None}, {"tools": []}, {"tools": [], "tool_choice": "none"}, {"tool_choice": "auto"}):
        assert parsed(**nothing).tools is None
    plain = tools_of()
    assert [json.loads(text) for text in plain.tools] == [tool(), tool("g")]
    assert (plain.choice, plain.only, plain.parallel) == (ToolChoice.AUTO, None, True)
    assert tools_of(tool_choice="none").choice is ToolChoice.NONE
    assert tools_of(tool_choice="required", parallel_tool_calls=False) == ToolsMsg(
        plain.tools, ToolChoice.REQUIRED, None, False
    )
    named = tools_of(tool_choice=tool("g"), parallel_tool_calls=None)
    assert (named.choice, named.only, named.parallel) == (ToolChoice.REQUIRED, "g", True)


def test_a_tool_reaches_the_template_as_it_was_sent() -> None:
    given = tool("a-B_9", description="Ä", parameters={"type": "object", "properties": {"x": {"maximum": 2**70}}})
    (text,) = tools_of(tools=[given]).tools
    assert json.loads(text) == given
    (text,) = tools_of(tools=[tool(strict=True, description=None)]).tools
    assert json.loads(text) == tool(strict=True)


def nested(value: str, levels: int) -> str:
    return '{"a":' * levels + value + "}" * levels


BAD = [
    ({"tools": "f"}, "invalid_type", "tools"),
    ({"tools": [1]}, "invalid_type", "tools[0]"),
    ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].function"),
    ({"tools": [{"function": {"name": "f"}}]}, "missing_required_parameter", "tools[0].type"),
    ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "unsupported", "tools[0].type"),
    ({"tools": [tool(), {"type": "function", "function": {}}]}, "missing_required_parameter", "tools[1].function.name"),
    ({"tools": [tool("")]}, "invalid_value", "tools[0].function.name"),
    ({"tools": [tool("a b")]}, "invalid_value", "tools[0].function.name"),
    ({"tools": [tool("a\n")]}, "invalid_value", "tools[0].function.name"),
    ({"tools": [tool("a" * 65)]}, "invalid_value", "tools[0].function.name"),
    ({"tools": [tool("ä")]}, "invalid_value", "tools[0].function.name"),
    ({"tools": [tool(), tool()]}, "invalid_value", "tools[1].function.name"),
    ({"tools": [tool(description=5)]}, "invalid_type", "tools[0].function.description"),
    ({"tools": [tool(parameters=[])]}, "invalid_type", "tools[0].function.parameters"),
    ({"tools": [tool(parameters={"type": "array"})]}, "invalid_value", "tools[0].function.parameters.type"),
    ({"tools": [tool(parameters={"type": ["object"]})]}, "invalid_value", "tools[0].function.parameters.type"),
    ({"tools": [tool(parameters=deep(40))]}, "invalid_value", "tools[0].function.parameters"),
    ({"tools": [tool(strict="yes")]}, "invalid_type", "tools[0].function.strict"),
    ({"tools": [tool(returns={})]}, "unknown_parameter", "tools[0].function.returns"),
    ({"tools": [tool(f"f{index}") for index in range(129)]}, "invalid_value", "tools"),
    ({"tools": [tool(description="A" * 99_000)]}, "invalid_value", "tools"),
    ({"tools": [tool()], "tool_choice": "any"}, "invalid_value", "tool_choice"),
    ({"tools": [tool()], "tool_choice": {"type": "function"}}, "invalid_value", "tool_choice"),
    ({"tools": [tool()], "tool_choice": {"name": "f"}}, "invalid_value", "tool_choice"),
    ({"tools": [tool()], "tool_choice": {"type": "function", "function": "f"}}, "invalid_value", "tool_choice"),
    ({"tools": [tool()], "tool_choice": tool("g")}, "invalid_value", "tool_choice.function.name"),
    ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "unsupported", "tool_choice.type"),
    ({"tools": [tool()], "tool_choice": 1}, "invalid_type", "tool_choice"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tools": [], "tool_choice": tool()}, "invalid_value", "tool_choice"),
    ({"tools": [tool()], "parallel_tool_calls": "no"}, "invalid_type", "parallel_tool_calls"),
    ({"functions": [{"name": "f"}]}, "unsupported", "functions"),
    ({"function_call": {"name": "f"}}, "unsupported", "function_call"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code", "param"), BAD, ids=[str(fields)[:60] for fields, _, _ in BAD])
def test_bad_tools(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(**fields)
    assert (caught.value.code, caught.value.param, caught.value.status) == (code, param, 400)
    assert param in str(caught.value)


@pytest.mark.parametrize("name", ["functions", "function_call"])
def test_the_former_names_are_answered_with_the_present_ones(name: str) -> None:
    with pytest.raises(RequestError, match="use tool"):
        parsed(**{name: {"name": "f"}})
    assert parsed(functions=[], function_call="auto").tools is None


def test_calls_and_results_of_the_past() -> None:
    chat = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "7"}], "name": "f"},
    ]
    messages = parsed(messages=chat).messages
    assert messages is not None
    assert messages[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "text", "text": "7"}], "name": "f", "tool_call_id": "call_1"},
    ]


def past(**call: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [CALL, CALL | call]}


BAD_PAST = [
    ({"role": "assistant", "tool_calls": [{}]}, "missing_required_parameter", "messages[1].tool_calls[0].id"),
    ({"role": "assistant", "tool_calls": {}}, "invalid_type", "messages[1].tool_calls"),
    ({"role": "user", "content": "A", "tool_calls": [CALL]}, "invalid_value", "messages[1].tool_calls"),
    ({"role": "assistant", "function_call": {"name": "f"}}, "unsupported", "messages[1].function_call"),
    ({"role": "tool", "content": "A", "tool_call_id": 5}, "invalid_type", "messages[1].tool_call_id"),
    (past(type="custom"), "unsupported", "messages[1].tool_calls[1].type"),
    (past(function={"name": "f"}), "missing_required_parameter", "messages[1].tool_calls[1].function.arguments"),
    (past(function={"name": "f", "arguments": {}}), "invalid_type", "messages[1].tool_calls[1].function.arguments"),
    (past(function={"name": "f", "arguments": '{"a'}), "invalid_value", "messages[1].tool_calls[1].function.arguments"),
    (past(function={"name": "f", "arguments": "[]"}), "invalid_value", "messages[1].tool_calls[1].function.arguments"),
    (
        past(function={"name": "f", "arguments": nested("1", 70)}), "invalid_value",
        "messages[1].tool_calls[1].function.arguments",
    ),
    (past(function={"name": "f g", "arguments": "{}"}), "invalid_value", "messages[1].tool_calls[1].function.name"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "code", "param"), BAD_PAST, ids=[str(message)[:60] for message, _, _ in BAD_PAST])
def test_bad_calls_of_the_past(message: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(messages=[*HELLO, message])
    assert (caught.value.code, caught.value.param) == (code, param)
