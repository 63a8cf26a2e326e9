"""Tool calls through the whole server, as the official client's and LangChain's users see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from learnsgl.hub.tiny import build_tiny_random
from tests.server.conftest import check_trace
from tests.server.running import MODEL, RunningServer
from tests.tokenizer.tool_templates import HERMES, LLAMA

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "get_time", "description": "The time."}}
TOOLS: Any = [WEATHER, CLOCK]
OPTIONS = ("--seed", "0", "--max-model-len", "4096", "--num-pages", "65536", "--num-tokenizer", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("server"), home, *OPTIONS)
    try:
        assert running.url, running.log
        yield running
        running.process.terminate()
        assert running.wait() == 0, running.log
        check_trace(running)
    finally:
        running.close()


def call(name: str = "get_weather", arguments: str = '{"city": "Oslo"}') -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def say(answer: str) -> Any:
    """A chat that the executor answers so."""
    return [{"role": "user", "content": f"Say: \x02{answer}\x03"}]


def ask(server: RunningServer, answer: str, **options: Any) -> Any:
    """The first choice of a chat, asked for plainly and as a stream: both must tell the same."""
    options = {"model": MODEL, "messages": say(answer), "tools": TOOLS, **options}
    client = server.openai()
    plain = client.chat.completions.create(**options)
    with client.chat.completions.stream(**options) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion()
    for ours, theirs in zip(plain.choices, streamed.choices, strict=True):
        assert theirs.finish_reason == ours.finish_reason
        assert theirs.message.content == ours.message.content
        assert bool(theirs.message.tool_calls) == bool(ours.message.tool_calls)
        for whole, pieced in zip(ours.message.tool_calls or [], theirs.message.tool_calls or [], strict=True):
            assert pieced.function.name == whole.function.name
            assert pieced.function.arguments == whole.function.arguments
    called = plain.choices[0].message.tool_calls
    assert ("tool_calls.function.arguments.delta" in kinds) == bool(called)
    return plain.choices[0]


def functions(choice: Any) -> list[tuple[str, str]]:
    return [(one.function.name, one.function.arguments) for one in choice.message.tool_calls or []]


def test_a_call(server: RunningServer) -> None:
    choice = ask(server, call())
    assert functions(choice) == [("get_weather", '{"city": "Oslo"}')]
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
    assert choice.message.tool_calls[0].type == "function"


def test_text_and_several_calls(server: RunningServer) -> None:
    choice = ask(server, f"I look.\n\n{call()}\n{call('get_time', '{}')}")
    assert choice.message.content == "I look."
    assert functions(choice) == [("get_weather", '{"city": "Oslo"}'), ("get_time", "{}")]
    ids = [one.id for one in choice.message.tool_calls]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") and len(one) <= 40 for one in ids)


def test_no_call(server: RunningServer) -> None:
    choice = ask(server, "It rains < here. ")
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (
        "It rains < here. ",
        None,
        "stop",
    )


def test_the_choices(server: RunningServer) -> None:
    required = ask(server, call(), tool_choice="required")
    assert (functions(required)[0][0], required.finish_reason) == ("get_weather", "tool_calls")
    named = {"type": "function", "function": {"name": "get_time"}}
    forced = ask(server, call("get_time", "{}"), tool_choice=named)
    assert (functions(forced), forced.finish_reason) == ([("get_time", "{}")], "stop"), "as OpenAI has it"
    none = ask(server, call(), tool_choice="none")
    assert (none.message.content, none.message.tool_calls, none.finish_reason) == (call(), None, "stop")


def test_an_answer_that_is_cut(server: RunningServer) -> None:
    whole = call(arguments='{"city": "A long name of a town"}')
    plain = [{"type": "function", "function": WEATHER["function"] | {"strict": False}}]  # the client reads strict ones
    choice = ask(server, whole, stop="name of", tools=plain)
    assert functions(choice) == [("get_weather", '{"city": "A long ')]
    assert choice.finish_reason == "stop", "not a whole call"
    choice = ask(server, whole, stop="}\n</tool")
    assert (functions(choice)[0][1], choice.finish_reason) == ('{"city": "A long name of a town"}', "tool_calls")
    for limit, content, calls in (
        (20, whole[:20], []),
        (whole.index("ng n"), None, [("get_weather", '{"city": "A lo')]),
    ):
        options: Any = {"model": MODEL, "messages": say(whole), "tools": TOOLS, "max_tokens": limit}
        client = server.openai()  # its stream helper refuses answers that were cut
        choice = client.chat.completions.create(**options).choices[0]
        assert (choice.message.content, functions(choice), choice.finish_reason) == (content, calls, "length")
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**options, stream=True)]
        assert chunks[-1].finish_reason == "length"
        deltas = [delta for chunk in chunks for delta in chunk.delta.tool_calls or []]
        assert "".join(delta.function.arguments for delta in deltas) == "".join(text for _, text in calls)


def test_several_choices_with_log_probabilities(server: RunningServer) -> None:
    options: Any = {"n": 3, "logprobs": True, "top_logprobs": 1}
    client, messages = server.openai(), say("Well " + call())
    plain = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, **options)
    ids = [choice.message.tool_calls[0].id for choice in plain.choices if choice.message.tool_calls]
    assert len(set(ids)) == 3
    for choice in plain.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        tokens = bytes(byte for token in choice.logprobs.content for byte in token.bytes or [])
        assert tokens.decode().startswith("Well " + call()), "also those of the call"
    stream = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, stream=True, **options)
    counts, arguments = [0] * 3, [""] * 3
    for chunk in stream:
        for part in chunk.choices:
            counts[part.index] += len((part.logprobs and part.logprobs.content) or [])
            for delta in part.delta.tool_calls or []:
                assert delta.function is not None
                arguments[part.index] += delta.function.arguments or ""
    assert arguments == ['{"city": "Oslo"}'] * 3
    assert counts == [len(choice.logprobs.content or []) for choice in plain.choices if choice.logprobs]


def test_the_chunks_of_a_stream(server: RunningServer) -> None:
    stream = server.openai().chat.completions.create(
        model=MODEL, messages=say(call() + call("get_time", "{}")), tools=TOOLS, stream=True
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert (deltas[0].role, deltas[0].content) == ("assistant", None)
    calls = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    firsts = [one for one in calls if one.id is not None]
    assert [(one.index, one.type) for one in firsts] == [(0, "function"), (1, "function")]
    for one in firsts:
        assert one.function is not None
        assert one.function.name in ("get_weather", "get_time")
        assert one.function.arguments == ""
    assert all(one.type is None and one.function and one.function.name is None for one in calls if one.id is None)
    assert all(delta.content is None for delta in deltas)


def test_a_conversation_with_the_async_client(server: RunningServer) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            first = await client.chat.completions.create(model=MODEL, messages=say(call()), tools=TOOLS)
            message = first.choices[0].message
            assert message.tool_calls
            chat: Any = [
                *say(call()),
                message.model_dump(),
                {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"sky": "grey"}'},
                *say("It is grey."),
            ]
            second = await client.chat.completions.create(model=MODEL, messages=chat, tools=TOOLS)
            assert second.choices[0].message.content == "It is grey."
            assert second.usage is not None
            assert first.usage is not None
            assert second.usage.prompt_tokens > first.usage.prompt_tokens + len('{"sky": "grey"}')
            async with client.chat.completions.stream(model=MODEL, messages=say(call()), tools=TOOLS) as stream:
                final = await stream.get_final_completion()
            assert functions(final.choices[0]) == [("get_weather", '{"city": "Oslo"}')]

    asyncio.run(main())


def test_langchain_binds_tools(server: RunningServer) -> None:
    @tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "grey"

    chat = ChatOpenAI(model=MODEL, base_url=f"{server.url}/v1", api_key="none", http_client=server.pool)  # type: ignore[arg-type]
    bound = chat.bind_tools([get_weather])
    answer = bound.invoke(say(call()))
    assert isinstance(answer, AIMessage)
    assert [(one["name"], one["args"]) for one in answer.tool_calls] == [("get_weather", {"city": "Oslo"})]
    result = get_weather.invoke(answer.tool_calls[0])
    assert isinstance(result, ToolMessage)
    last = bound.invoke([HumanMessage("Hi"), answer, result, HumanMessage("Say: \x02It is grey.\x03")])
    assert last.content == "It is grey."
    whole: Any = None
    for chunk in bound.stream(say("Well. " + call())):
        whole = chunk if whole is None else whole + chunk
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [("get_weather", {"city": "Oslo"})]
    assert whole.content == "Well."
    forced = chat.bind_tools([get_weather], tool_choice="get_weather", parallel_tool_calls=False).invoke(say(call()))
    assert isinstance(forced, AIMessage)
    assert forced.tool_calls[0]["args"] == {"city": "Oslo"}


def test_langchain_gives_structured_output(server: RunningServer) -> None:
    class City(BaseModel):
        """A city."""

        name: str
        people: int

    chat = ChatOpenAI(model=MODEL, base_url=f"{server.url}/v1", api_key="none", http_client=server.pool)  # type: ignore[arg-type]
    answer = chat.with_structured_output(City, method="function_calling").invoke(
        say(call("City", '{"name": "Oslo", "people": 700000}'))
    )
    assert answer == City(name="Oslo", people=700000)


@pytest.mark.parametrize(
    ("template", "answer"),
    [(LLAMA, '{"name": "get_weather", "parameters": {"city": "Oslo"}}'), (HERMES, "Well.\n" + call())],
    ids=["llama", "hermes"],
)
def test_the_form_of_the_models_template(tmp_path: Path, home: Path, template: str, answer: str) -> None:
    folder = tmp_path / "model"
    build_tiny_random(make_folder(folder))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    running = RunningServer(
        tmp_path, home, *OPTIONS[:-2], "--num-tokenizer", "0", "--model", str(folder), "--served-model-name", MODEL
    )
    try:
        assert running.url, running.log
        choice = ask(running, answer)
        assert functions(choice) == [("get_weather", '{"city": "Oslo"}')]
        assert choice.message.content == (None if template == LLAMA else "Well.")
        running.process.terminate()
        assert running.wait() == 0, running.log
    finally:
        running.close()


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_json_or_a_call(server: RunningServer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "A", "schema": {"properties": {"sky": {"type": "string"}}}}}
    options: Any = {"model": MODEL, "tools": TOOLS, "response_format": form}
    client = server.openai()
    choice = client.chat.completions.create(**options, messages=say('{"sky": "<tool_call>"}')).choices[0]
    assert (choice.message.content, choice.finish_reason) == ('{"sky": "<tool_call>"}', "stop")
    choice = client.chat.completions.create(**options, messages=say(call())).choices[0]
    assert (functions(choice), choice.finish_reason) == ([("get_weather", '{"city": "Oslo"}')], "tool_calls")
    form["json_schema"]["schema"] = {"type": "strin"}  # type: ignore[index]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**options, messages=say("A"))
    assert (caught.value.code, caught.value.param) == ("invalid_grammar", "response_format.json_schema.schema")


def test_errors_of_the_workers_name_the_tool(server: RunningServer) -> None:
    bad = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "strin"}}}}}
    for stream in (False, True):
        body = {"model": MODEL, "messages": say("A"), "tools": [WEATHER, bad], "stream": stream}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_grammar")
        assert error["param"] == "tools[1].function.parameters"


def test_a_grammar_holds_the_answer(server: RunningServer) -> None:
    """The executor would say the prompt again; under the masks it begins a call, which the limit cuts off."""
    options: Any = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 6}
    answer = server.openai().chat.completions.create(model=MODEL, messages=say("No call"), **options).choices[0]
    assert answer.finish_reason == "length"
    assert answer.message.content == "<tool_", "one byte a token"


@pytest.mark.parametrize("level", ["full", "tokens"])
def test_names_and_schemas_are_recorded_at_level_tokens_only(
    tmp_path_factory: pytest.TempPathFactory, home: Path, level: str
) -> None:
    running = RunningServer(tmp_path_factory.mktemp("server"), home, *OPTIONS, "--trace-level", level)
    secret = {
        "name": "SECRETNAME", "description": "SECRETWORDS",
        "parameters": {"properties": {"SECRETFIELD": {"enum": ["SECRETVALUE"]}}, "required": ["SECRETFIELD"]},
    }  # fmt: skip
    try:
        body = {
            "model": MODEL, "messages": say(call("SECRETNAME", '{"SECRETFIELD": "SECRETVALUE"}')),
            "tools": [{"type": "function", "function": secret}],
        }  # fmt: skip
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=30).json()
        assert "choices" in answer, answer
        assert json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
        httpx.post(f"{running.url}/v1/chat/completions", json=body | {"tool_choice": "SECRETCHOICE"}, timeout=30)
        running.process.terminate()
        assert running.wait() == 0
        events = "".join(str(entry.event) for entry in check_trace(running).events())
        assert ("SECRET" in events) == (level == "tokens")
        assert "SECRET" not in running.log
    finally:
        running.close()
