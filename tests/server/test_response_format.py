"""Answers in a given form: what the parsers make of the fields, and real servers through the openai client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from learnsgl.core import Grammar, GrammarKind
from learnsgl.errors import RequestError
from learnsgl.local_server import LocalServer
from learnsgl.message.types import ErrorInfo
from learnsgl.server.parse import parse_chat, parse_completion
from learnsgl.server.parse_generate import parse_generate
from learnsgl.trace import events
from tests.server.conftest import check_trace
from tests.server.running import MODEL, RunningServer

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
WRAPPED = {"name": "thing", "schema": SCHEMA}
TOOLS = [{"type": "function", "function": {"name": "call_me"}}]
JSON_SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
"""What each of the next fields means."""
FORMS: list[tuple[dict[str, Any], Grammar | None, str]] = [
    ({}, None, "response_format"),
    ({"response_format": None}, None, "response_format"),
    ({"response_format": {"type": "text"}}, None, "response_format"),
    ({"response_format": {"type": "json_object"}}, Grammar(GrammarKind.JSON_OBJECT), "response_format"),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, JSON_SCHEMA, "response_format.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": WRAPPED | {"strict": True, "description": "A."}}},
        JSON_SCHEMA, "response_format.json_schema.schema",
    ),
    ({"guided_json": SCHEMA}, JSON_SCHEMA, "guided_json"),
    ({"guided_json": json.dumps(SCHEMA)}, JSON_SCHEMA, "guided_json"),
    ({"guided_regex": "a+"}, Grammar(GrammarKind.REGEX, "a+"), "guided_regex"),
    ({"guided_choice": ["a\n", 'b"']}, Grammar(GrammarKind.LARK, r'start: "a\n" | "b\""'), "guided_choice"),
    ({"guided_grammar": "start: /a/"}, Grammar(GrammarKind.LARK, "start: /a/"), "guided_grammar"),
    ({"structured_outputs": {"json": SCHEMA}}, JSON_SCHEMA, "structured_outputs.json"),
    ({"structured_outputs": {"regex": "a"}}, Grammar(GrammarKind.REGEX, "a"), "structured_outputs.regex"),
    ({"structured_outputs": {"json_object": True}}, Grammar(GrammarKind.JSON_OBJECT), "structured_outputs.json_object"),
    ({"structured_outputs": {"json_object": False}}, None, "response_format"),
]  # fmt: skip


def chat_body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "A"}], **fields}).encode()


@pytest.mark.parametrize(("fields", "grammar", "param"), FORMS)
def test_forms_of_both_routes(fields: dict[str, Any], grammar: Grammar | None, param: str) -> None:
    complete = json.dumps({"model": "m", "prompt": "A", **fields}).encode()
    for request in (parse_chat(chat_body(**fields), "m"), parse_completion(complete, "m")):
        assert request.prompts[0].sampling.grammar == grammar
        error = ErrorInfo("no", param="grammar")
        request.name_params(error)
        assert error.param == param


def test_forms_of_generate() -> None:
    def parse(**sampling: Any) -> Any:
        return parse_generate(json.dumps({"text": "A", "sampling_params": sampling}).encode())

    for fields, grammar in (
        ({"json_schema": json.dumps(SCHEMA)}, JSON_SCHEMA), ({"json_schema": SCHEMA}, JSON_SCHEMA),
        ({"regex": "a"}, Grammar(GrammarKind.REGEX, "a")),
        ({"ebnf": "root ::= x"}, Grammar(GrammarKind.LARK, "root ::= x")),
        ({}, None),
    ):  # fmt: skip
        request = parse(**fields)
        assert request.prompts[0].sampling.grammar == grammar
        error = ErrorInfo("no", param="grammar")
        request.name_params(error)
        assert error.param == "sampling_params." + next(iter(fields), "")
    with pytest.raises(RequestError, match=r"sampling_params\.json_schema and sampling_params\.regex each ask"):
        parse(json_schema="{}", regex="a")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": "json"}, "invalid_type", "response_format"),
        ({"response_format": {}}, "missing_required_parameter", "response_format.type"),
        ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "missing_required_parameter", "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "A"}}},
            "missing_required_parameter", "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "A", "schema": 3}}},
            "invalid_type", "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "text", "strict": 1}}, "unknown_parameter", "response_format.strict"),
        ({"guided_choice": []}, "invalid_value", "guided_choice"),
        ({"guided_choice": [1]}, "invalid_type", "guided_choice[0]"),
        ({"guided_regex": "a", "guided_json": {}}, "invalid_value", "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "invalid_value", "guided_regex"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "unknown_parameter", "structured_outputs.structural_tag"),
        ({"guided_decoding_backend": "xgrammar"}, "unsupported", "guided_decoding_backend"),
        ({"guided_regex": "a", "tools": TOOLS}, "unsupported", "guided_regex"),
    ],
)  # fmt: skip
def test_malformed_forms_are_named(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_chat(chat_body(**fields), "m")
    assert (raised.value.code, raised.value.param) == (code, param)
    assert raised.value.status == 400


def test_tools_that_are_not_to_be_called_leave_room_for_a_form() -> None:
    request = parse_chat(chat_body(response_format={"type": "json_object"}, tools=TOOLS, tool_choice="none"), "m")
    assert request.prompts[0].sampling.grammar == Grammar(GrammarKind.JSON_OBJECT)


# ---------------------------------------------------------------- real servers


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(pattern="^[A-Z][a-z]{1,8}$")
    age: int = pydantic.Field(ge=0, le=150)
    mood: Literal["happy", "sad"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, home: Any) -> Iterator[RunningServer]:
    """The real engine on random weights. In the end it must drain, and have a whole trace without a schema in it."""
    options = ("--num-pages", "4096", "--num-threads", "1", "--max-prefill-length", "64", "--trace-level", "full")
    running = RunningServer(tmp_path_factory.mktemp("real"), home, *options, echo=False)
    try:
        assert running.url, running.log
        yield running
        running.process.terminate()
        assert running.wait() == 0, running.log
        assert running.left_behind() == []
        trace = check_trace(running)
        found = [entry.event for entry in trace.events("scheduler-0") if isinstance(entry.event, events.BatchMasked)]
        assert found
        assert all(event.num_rows >= 1 for event in found)
        told = running.log + "".join(repr(entry.event) for entry in trace.events())
        assert "mood" not in told
        assert "zebra" not in told
    finally:
        running.close()


def create(server: RunningServer, **fields: Any) -> Any:
    extra = {name: fields.pop(name) for name in list(fields) if name.startswith(("guided", "structured", "min_"))}
    return server.openai().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "A person."}], extra_body=extra, **fields
    )


PERSON_FORMAT: Any = {
    "type": "json_schema", "json_schema": {"name": "Person", "strict": True, "schema": Person.model_json_schema()},
}  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0}, {"temperature": 1.5, "seed": 3}, {"temperature": 1, "top_k": 5, "top_p": 0.5},
        {"temperature": 0, "frequency_penalty": 2, "presence_penalty": 2}, {"logit_bias": {"65": 100, "257": 100}},
        {"temperature": 1, "min_tokens": 40, "min_p": 0.9},
    ],
)  # fmt: skip
def test_whatever_is_sampled_fits_the_schema(real: RunningServer, fields: dict[str, Any]) -> None:
    extra = {name: fields[name] for name in ("top_k", "min_tokens", "min_p") if name in fields}
    plain = {name: value for name, value in fields.items() if name not in extra}
    answer = real.openai().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A person."}],
        response_format=PERSON_FORMAT,
        n=2,
        logprobs=True,
        top_logprobs=2,
        extra_body=extra,
        **plain,
    )  # type: ignore[call-overload]
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        Person.model_validate_json(choice.message.content)
        assert choice.logprobs.content[0].token == "{"
        assert len(choice.logprobs.content[0].top_logprobs) == 2


def test_streamed_and_parsed(real: RunningServer) -> None:
    stream = create(real, response_format=PERSON_FORMAT, stream=True, temperature=1, seed=5)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    whole = create(real, response_format=PERSON_FORMAT, temperature=1, seed=5)
    assert whole.choices[0].message.content == text
    Person.model_validate_json(text)
    parsed = real.openai().chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "A person."}], response_format=Person
    )
    assert isinstance(parsed.choices[0].message.parsed, Person)


def test_other_kinds(real: RunningServer) -> None:
    choice = create(real, guided_choice=["left zebra", "right zebra"], temperature=1).choices[0]
    assert choice.message.content in ("left zebra", "right zebra")
    text = create(real, guided_regex="[0-9]{3}-[0-9]{3}").choices[0].message.content
    assert re.fullmatch("[0-9]{3}-[0-9]{3}", text)
    ebnf = {"grammar": 'root ::= "<" [a-c]+ ">"'}
    text = create(real, structured_outputs=ebnf, max_tokens=9).choices[0].message.content
    assert re.fullmatch("<[a-c]+>?", text)
    text = create(real, response_format={"type": "json_object"}, max_tokens=20).choices[0].message.content
    assert text.startswith("{")
    sampling = {"json_schema": '{"enum": [[1, 2]]}', "max_new_tokens": 90}
    with real.http() as http:
        done = http.post("/generate", json={"text": "A", "sampling_params": sampling}).json()
    assert json.loads(done["text"]) == [1, 2]
    completion = real.openai().completions.create(
        model=MODEL, prompt="AB", echo=True, max_tokens=20, extra_body={"guided_regex": "C{3}"}
    )
    assert completion.choices[0].text == "ABCCC"


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_followed_is_an_error_before_the_stream(real: RunningServer, stream: bool) -> None:
    schema = {"type": "object", "properties": {"zebra": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError) as raised:
        create(
            real, response_format={"type": "json_schema", "json_schema": {"name": "A", "schema": schema}}, stream=stream
        )
    assert raised.value.code == "invalid_grammar"
    assert raised.value.param == "response_format.json_schema.schema"
    assert "uniqueItems" in str(raised.value)
    assert "$.properties.zebra" in str(raised.value)


class Invented(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=30)
    age: int = pydantic.Field(ge=0, le=150)
    hobbies: list[str] = pydantic.Field(max_length=2)


@pytest.mark.model
def test_the_built_in_model_writes_what_a_client_parses() -> None:
    question: Any = [{"role": "user", "content": "Invent a person. Answer with JSON: name, age, hobbies."}]
    fields: Any = {"model": "smollm2-135m", "messages": question, "temperature": 0, "max_tokens": 200}
    with LocalServer("--num-pages", "2048") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
        with client:
            parsed = client.chat.completions.parse(response_format=Invented, **fields).choices[0]
            assert isinstance(parsed.message.parsed, Invented)
            with client.chat.completions.stream(response_format=Invented, **fields) as stream:
                final = stream.get_final_completion()
            assert final.choices[0].message.parsed == parsed.message.parsed
