"""Whatever a body holds, parsing it gives a request or a `RequestError` whose JSON can be sent; nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.errors import RequestError
from learnsgl.message.codec import MAX_MESSAGE_BYTES, MessageDecoder, encode_messages, tokenizer_channel
from learnsgl.message.types import TokenizeMsg
from learnsgl.server import parse_generate
from learnsgl.server.http_errors import error_body, info_of
from learnsgl.server.new_request import NewRequest
from learnsgl.server.openai import NEUTRAL, ChatCompletionRequest, CompletionRequest
from learnsgl.server.parse import parse_chat, parse_completion

MODEL = "m"
PARSERS: dict[str, Callable[[bytes], NewRequest]] = {
    "chat": lambda body: parse_chat(body, MODEL),
    "completion": lambda body: parse_completion(body, MODEL),
    "generate": parse_generate.parse_generate,
}


def names(*schemas: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for schema in schemas for field in msgspec.structs.fields(schema)]


NAMES = sorted(
    {
        *names(ChatCompletionRequest, CompletionRequest, parse_generate.GenerateRequest),
        *names(parse_generate.GenerateSampling), *NEUTRAL, "role", "content", "type", "x",
    }
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 3), st.floats(), st.text(max_size=4),
    st.sampled_from([2**31, 2**63, 10**40, -(10**40), 1e308, "user", "text", MODEL, "\ud800", "\0"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=3)), inner)
    ),
    max_leaves=6,
)
GOOD = {
    "chat": {"model": MODEL, "messages": [{"role": "user", "content": "A"}]},
    "completion": {"model": MODEL, "prompt": "A"},
    "generate": {"text": "A"},
}
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)


def check(route: str, body: bytes) -> None:
    try:
        request = PARSERS[route](body)
    except RequestError as error:
        answer = json.loads(error_body(info_of(error)))["error"]
        status = error.status
    else:
        check_request(request)
        return
    assert set(answer) == {"message", "type", "param", "code"}
    assert 400 <= status < 500
    assert len(answer["message"]) < 20_000


def check_request(request: NewRequest) -> None:
    """Its messages reach the tokenizer as they were."""
    decoder = MessageDecoder(tokenizer_channel(0))
    for prompt in request.prompts:
        message = TokenizeMsg(
            1, prompt.sampling, prompt.text, prompt.input_ids, prompt.messages, request.echo, prompt.tools,
            prompt.template,
        )  # fmt: skip
        payload = encode_messages([message])
        assert len(payload) <= MAX_MESSAGE_BYTES
        assert decoder.decode(payload) == [message]


@settings(max_examples=300, deadline=None)
@given(route=st.sampled_from(list(PARSERS)), fields=BODIES, based=st.booleans())
def test_any_fields(route: str, fields: dict[str, Any], based: bool) -> None:
    check(route, json.dumps((GOOD[route] if based else {}) | fields).encode("utf-8", "surrogatepass"))


@settings(max_examples=100, deadline=None)
@given(route=st.sampled_from(list(PARSERS)), body=st.binary(max_size=60))
def test_any_bytes(route: str, body: bytes) -> None:
    check(route, body)


@settings(max_examples=100, deadline=None)
@given(params=st.dictionaries(st.sampled_from(names(parse_generate.GenerateSampling)), VALUES, max_size=4))
def test_any_sampling_parameters(params: dict[str, Any]) -> None:
    check("generate", json.dumps({"text": "A", "sampling_params": params}).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("route", list(PARSERS))
def test_a_name_of_megabytes_is_refused_at_once(route: str) -> None:
    check(route, json.dumps({"n" * (4 << 20): 1}).encode())


@pytest.mark.parametrize("route", list(PARSERS))
def test_no_body_costs_a_look_at_every_annotation(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`msgspec.structs.fields` takes a millisecond for these schemas, ten times what the rest of parsing takes."""

    def looked(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(msgspec.structs, "fields", looked)
    PARSERS[route](json.dumps(GOOD[route]).encode())


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    request = parse_completion(b'{"model": "m", "prompt": "A", "seed": 1, "seed": 2}', MODEL)
    assert request.prompts[0].sampling.seed == 2
