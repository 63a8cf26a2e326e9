"""The built-in model calls tools: what it is forced to call is a valid call, and it answers with what came of it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from learnsgl.local_server.server import LocalServer
from tests.tokenizer.tool_templates import WEATHER

CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The local time in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTION: dict[str, Any] = {"role": "user", "content": "What is the weather in Oslo for the next 3 days?"}


def client_of(server: LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.mark.model
def test_what_the_built_in_model_must_call_it_calls() -> None:
    options = ("--num-pages", "4096", "--num-threads", "1")
    with LocalServer(*options) as server, client_of(server) as client:
        asked: Any = {"model": server.model, "tools": [WEATHER, CLOCK], "temperature": 0, "max_tokens": 100}
        one: Any = {"messages": [QUESTION], "tool_choice": "required", "parallel_tool_calls": False}
        choice = client.chat.completions.create(**asked, **one).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert choice.message.tool_calls
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo", "days": 3})
        with client.chat.completions.stream(**asked, **one) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls
        assert streamed is not None
        assert [found.function.arguments for found in streamed] == [call.function.arguments]

        named: Any = {"type": "function", "function": {"name": "get_time"}}
        forced: Any = asked | {"temperature": 1.5, "n": 4, "seed": 1}
        answer = client.chat.completions.create(**forced, messages=[QUESTION], tool_choice=named)
        for choice in answer.choices:
            if choice.finish_reason != "length":  # at this temperature a name may have no end
                assert choice.message.tool_calls
                assert choice.message.tool_calls[0].type == "function"
                assert set(json.loads(choice.message.tool_calls[0].function.arguments)) == {"city"}

        result = {"role": "tool", "tool_call_id": call.id, "content": "Rain, 8 degrees."}
        chat: Any = [QUESTION, {"role": "assistant", "tool_calls": [call.model_dump()]}, result]
        last = client.chat.completions.create(**asked, messages=chat)
        assert "rain" in (last.choices[0].message.content or "").lower()
