"""What clients send wrongly: each gets an OpenAI-shaped error, and nothing is lost or stuck."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from learnsgl.errors import RequestError
from learnsgl.server.parse import parse_chat, parse_completion
from learnsgl.server.parse_generate import parse_generate
from tests.server.running import MODEL, RunningServer

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
STATS = "stream_options.continuous_usage_stats"
GEN = "sampling_params."
HELLO = [{"role": "user", "content": "HELLO"}]


def chat(**fields: Any) -> str:
    return json.dumps({"model": MODEL, "messages": HELLO} | fields)


def complete(**fields: Any) -> str:
    return json.dumps({"model": MODEL, "prompt": "ABC"} | fields)


BAD_BODIES = [
    # not JSON
    (CHAT, "", "invalid_json", None),
    (CHAT, "{", "invalid_json", None),
    (CHAT, "[]", "invalid_json", None),
    (CHAT, "null", "invalid_json", None),
    (CHAT, b"\xff\xfe", "invalid_json", None),
    (CHAT, '{"model": "\\ud800"}', "invalid_json", None),
    (CHAT, '{"a":' * 50_000, "invalid_json", None),
    (CHAT, '{"messages":' + "[" * 100_000 + "]" * 100_000 + "}", "invalid_json", None),
    (CHAT, chat().replace("}", ', "temperature": NaN}', 1), "invalid_json", None),
    (COMPLETIONS, complete()[:-1] + ', "temperature": 1e999}', "invalid_json", None),
    # missing and wrong fields
    (CHAT, "{}", "missing_required_parameter", "model"),
    (CHAT, json.dumps({"messages": HELLO}), "missing_required_parameter", "model"),
    (CHAT, json.dumps({"model": MODEL}), "missing_required_parameter", "messages"),
    (COMPLETIONS, json.dumps({"model": MODEL}), "missing_required_parameter", "prompt"),
    (CHAT, chat(messages=[]), "invalid_value", "messages"),
    (CHAT, chat(messages="HELLO"), "invalid_type", "messages"),
    (CHAT, chat(messages=["HELLO"]), "invalid_type", "messages[0]"),
    (CHAT, chat(messages=[{"content": "A"}]), "missing_required_parameter", "messages[0].role"),
    (CHAT, chat(messages=[{"role": "user"}]), "invalid_value", "messages[0].content"),
    (CHAT, chat(messages=[{"role": "king", "content": "A"}]), "invalid_value", "messages[0].role"),
    (CHAT, chat(messages=[{"role": "user", "content": 5}]), "invalid_type", "messages[0].content"),
    (CHAT, chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), None, "messages[0].content"),
    (CHAT, chat(messages=[*HELLO, {"role": "assistant", "audio": {"id": "A"}}]), "unsupported", "messages[1].audio"),
    (CHAT, chat(stream="yes"), "invalid_type", "stream"),
    (CHAT, chat(stream_options={"include_usage": True}), "invalid_value", "stream_options"),
    (CHAT, chat(stream=True, stream_options={"usage": 1}), "unknown_parameter", "stream_options.usage"),
    (CHAT, chat(temprature=1), "unknown_parameter", "temprature"),
    (COMPLETIONS, complete(prompt=[]), "invalid_value", "prompt"),
    (COMPLETIONS, complete(prompt=""), "invalid_value", "prompt"),
    (COMPLETIONS, complete(prompt=5), "invalid_type", "prompt"),
    (COMPLETIONS, complete(prompt=["A", ""]), "invalid_value", "prompt"),
    (COMPLETIONS, complete(prompt=["A", []]), "invalid_value", "prompt[1]"),
    (COMPLETIONS, complete(prompt=["A", 5]), "invalid_type", "prompt[1]"),
    (COMPLETIONS, complete(prompt=["A", [260]]), "invalid_value", "prompt"),
    (COMPLETIONS, complete(prompt=["A", "B" * 300], stream=True), "context_length_exceeded", "prompt"),
    (COMPLETIONS, complete(prompt=["A"] * 1025), "invalid_value", "prompt"),
    (COMPLETIONS, complete(prompt=[[[1]]]), "invalid_type", "prompt[0][0]"),
    (COMPLETIONS, complete(prompt=[1.5]), "invalid_type", "prompt[0]"),
    (COMPLETIONS, complete(prompt=[-1]), "invalid_type", "prompt[0]"),
    (COMPLETIONS, complete(prompt=[2**31]), "invalid_type", "prompt[0]"),
    (COMPLETIONS, complete(prompt=[10**30]), "invalid_type", "prompt[0]"),
    (COMPLETIONS, complete(prompt={"a": 1}), "invalid_type", "prompt"),
    (COMPLETIONS, complete(echo="yes"), "invalid_type", "echo"),
    (CHAT, chat(echo=True), "unsupported", "echo"),
    (COMPLETIONS, complete(prompt=[260]), "invalid_value", "prompt"),
    (GENERATE, "{}", "invalid_value", "text"),
    (GENERATE, '{"text": "A", "input_ids": [1]}', "invalid_value", "text"),
    (GENERATE, '{"text": "A", "sampling_params": {"max_new_token": 1}}', "unknown_parameter", None),
    # out of range
    (CHAT, chat(temperature=-0.1), "invalid_value", "temperature"),
    (CHAT, chat(temperature=101), "invalid_value", "temperature"),
    (CHAT, chat(temperature="hot"), "invalid_type", "temperature"),
    (CHAT, chat(top_p=0), "invalid_value", "top_p"),
    (CHAT, chat(top_p=1.1), "invalid_value", "top_p"),
    (CHAT, chat(top_k=-2), "invalid_value", "top_k"),
    (CHAT, chat(max_tokens=0), "invalid_value", "max_tokens"),
    (CHAT, chat(max_tokens=True), "invalid_type", "max_tokens"),
    (CHAT, chat(max_tokens=1.5), "invalid_type", "max_tokens"),
    (CHAT, chat(max_completion_tokens=0), "invalid_value", "max_completion_tokens"),
    (CHAT, chat(max_completion_tokens=-5), "invalid_value", "max_completion_tokens"),
    (CHAT, chat(max_tokens=10**400), "invalid_value", "max_tokens"),
    (CHAT, chat(top_k=2**64), "invalid_value", "top_k"),
    (CHAT, chat(messages=[{"role": "user", "content": [2**64]}]), "invalid_value", "messages[0].content"),
    (
        CHAT,
        chat(messages=[{"role": "tool", "content": [{"type": "text", "text": "A", "n": -(2**63) - 1}]}]),
        "invalid_value",
        "messages[0].content",
    ),
    (CHAT, chat(seed=2**63), "invalid_value", "seed"),
    (CHAT, chat(seed=10**30), "invalid_value", "seed"),
    (CHAT, chat(stop=["A"] * 17), "invalid_value", "stop"),
    (CHAT, chat(stop="A" * 1025), "invalid_value", "stop"),
    (CHAT, chat(stop=""), "invalid_value", "stop"),
    (CHAT, chat(stop=[5]), "invalid_type", "stop[0]"),
    (
        GENERATE,
        '{"text": "A", "sampling_params": {"max_new_tokens": -1}}',
        "invalid_value",
        "sampling_params.max_new_tokens",
    ),
    (COMPLETIONS, complete(max_tokens=0), "invalid_value", "max_tokens"),
    (COMPLETIONS, complete(max_tokens=-1, echo=True), "invalid_value", "max_tokens"),
    (COMPLETIONS, complete(best_of=2), "unsupported", "best_of"),
    (COMPLETIONS, complete(best_of=3, n=2), "unsupported", "best_of"),
    (CHAT, chat(stream=True, stream_options={"continuous_usage_stats": True}), "unsupported", STATS),
    (COMPLETIONS, complete(chat_template_kwargs={"a": 1}), "unsupported", "chat_template_kwargs"),
    (CHAT, chat(chat_template_kwargs=[1]), "invalid_type", "chat_template_kwargs"),
    (CHAT, chat(chat_template_kwargs={"tokenize": True, "x": 1}), "invalid_value", "chat_template_kwargs"),
    (CHAT, chat(continue_final_message=True), "invalid_value", "continue_final_message"),
    (CHAT, chat(add_generation_prompt="no"), "invalid_type", "add_generation_prompt"),
    (CHAT, chat(n=0), "invalid_value", "n"),
    (CHAT, chat(n=129), "invalid_value", "n"),
    (CHAT, chat(n=1.5), "invalid_type", "n"),
    (CHAT, chat(best_of=2), "unsupported", "best_of"),
    (COMPLETIONS, complete(prompt=["A"] * 9, n=128), "invalid_value", "prompt"),
    (CHAT, chat(min_p=1.5), "invalid_value", "min_p"),
    (CHAT, chat(frequency_penalty=2.5), "invalid_value", "frequency_penalty"),
    (CHAT, chat(presence_penalty=-2.5), "invalid_value", "presence_penalty"),
    (CHAT, chat(repetition_penalty=0), "invalid_value", "repetition_penalty"),
    (CHAT, chat(repetition_penalty=1e-30), "invalid_value", "repetition_penalty"),
    (CHAT, chat(logit_bias={"5": 101}), "invalid_value", "logit_bias"),
    (CHAT, chat(logit_bias={"260": 1}), "invalid_value", "logit_bias"),
    (CHAT, chat(logit_bias={"-1": 1}), "invalid_value", "logit_bias"),
    (CHAT, chat(logit_bias={str(10**30): 1}), None, "logit_bias"),
    (CHAT, chat(logit_bias={"five": 1}), "invalid_type", "logit_bias"),
    (CHAT, chat(logit_bias={"5": "much"}), "invalid_type", "logit_bias"),
    (CHAT, chat(logit_bias=[5]), "invalid_type", "logit_bias"),
    (CHAT, chat(logit_bias={str(token): 0 for token in range(1025)}), "invalid_value", "logit_bias"),
    (CHAT, chat(stop_token_ids=[260]), "invalid_value", "stop_token_ids"),
    (CHAT, chat(stop_token_ids=[-1]), "invalid_value", "stop_token_ids"),
    (CHAT, chat(stop_token_ids=[2**40]), "invalid_value", "stop_token_ids"),
    (CHAT, chat(stop_token_ids=["a"]), "invalid_type", "stop_token_ids[0]"),
    (CHAT, chat(stop_token_ids=[1] * 257), "invalid_value", "stop_token_ids"),
    (CHAT, chat(min_tokens=-1), "invalid_value", "min_tokens"),
    (CHAT, chat(min_tokens=6, max_tokens=5), "invalid_value", "min_tokens"),
    (GENERATE, '{"text": "A", "sampling_params": {"stop_token_ids": [260]}}', "invalid_value", GEN + "stop_token_ids"),
    (GENERATE, '{"text": "A", "sampling_params": {"min_new_tokens": -1}}', "invalid_value", GEN + "min_new_tokens"),
    (CHAT, chat(logprobs=5), "invalid_type", "logprobs"),
    (CHAT, chat(top_logprobs=3), "invalid_value", "top_logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "invalid_value", "top_logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=-1), "invalid_value", "top_logprobs"),
    (COMPLETIONS, complete(logprobs=True), "invalid_type", "logprobs"),
    (COMPLETIONS, complete(logprobs=21), "invalid_value", "logprobs"),
    (COMPLETIONS, complete(logprobs=-1, echo=True), "invalid_value", "logprobs"),
    (GENERATE, '{"text": "A", "return_logprob": 1}', "invalid_type", "return_logprob"),
    (GENERATE, '{"text": "A", "logprob_start_len": -2}', "invalid_value", "logprob_start_len"),
    (GENERATE, '{"text": "A", "top_logprobs_num": 21}', "invalid_value", "top_logprobs_num"),
    # not supported
    (COMPLETIONS, complete(tools=[{"type": "function"}]), "unsupported", "tools"),
    (CHAT, chat(guided_decoding_backend="outlines"), "unsupported", "guided_decoding_backend"),
]


def test_bad_bodies(server: RunningServer) -> None:
    with server.http() as client:
        for route, body, code, param in BAD_BODIES:
            answer = client.post(route, content=body)
            shown = f"{route} {body[:100]!r}: {answer.status_code} {answer.text}"
            assert answer.status_code == 400, shown
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, shown
            assert error["type"] == "invalid_request_error", shown
            assert error["code"] == (code or error["code"]), shown
            assert error["param"] == param or (param is None and code == "unknown_parameter"), shown
        assert client.get("/health").json()["num_running"] == 0
        assert client.post(GENERATE, json={"text": "AB", "sampling_params": {"max_new_tokens": 2}}).is_success


@pytest.mark.parametrize(
    ("method", "route", "body", "status", "code"),
    [
        ("POST", CHAT, chat(model="gpt-4"), 404, "model_not_found"),
        ("POST", COMPLETIONS, complete(model=""), 404, "model_not_found"),
        ("GET", "/v1/models/gpt-4", "", 404, "model_not_found"),
        ("GET", "/v1/nothing", "", 404, "route_not_found"),
        ("GET", CHAT, "", 405, "method_not_allowed"),
        ("POST", "/v1/models", "{}", 405, "method_not_allowed"),
        ("POST", CHAT, " " * (8 << 20) + "{}", 413, "request_too_large"),
    ],
)
def test_other_errors(server: RunningServer, method: str, route: str, body: str, status: int, code: str) -> None:
    answer = httpx.request(method, server.url + route, content=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "route", "hint"),
    [
        ("POST", "/chat/completions", "did you mean /v1/chat/completions?"),
        ("POST", "/v1/v1/completions", "did you mean /v1/completions?"),
        ("POST", "/v1/tokenize", "did you mean /tokenize?"),
        ("GET", "/v1/model", "did you mean /v1/models?"),
        ("GET", "/", "GET /openapi.json lists the routes"),
        ("GET", "/" + "v1/model" * 500, "GET /openapi.json lists the routes"),
        ("PUT", "/v1/models", "it takes GET, HEAD"),
    ],
)
def test_a_wrong_path_is_answered_with_the_likely_one(
    server: RunningServer, method: str, route: str, hint: str
) -> None:
    message = httpx.request(method, server.url + route).json()["error"]["message"]
    assert hint in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/xml"]
)
def test_a_body_is_json_whatever_its_content_type(server: RunningServer, kind: str) -> None:
    answer = httpx.post(server.url + COMPLETIONS, content=complete(max_tokens=2), headers={"content-type": kind})
    assert answer.json()["choices"][0]["text"] == "AB"
    answer = httpx.post(server.url + COMPLETIONS, content=b"prompt=ABC&model=x", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_the_client_library_raises_its_own_errors(server: RunningServer) -> None:
    client = server.openai()
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)  # type: ignore[arg-type]


def test_neutral_and_ignored_fields_are_accepted() -> None:
    request = parse_chat(
        chat(
            n=1, logprobs=False, frequency_penalty=0, presence_penalty=0.0, logit_bias={}, tools=None, user="me",
            response_format={"type": "text"}, store=True, top_k=-1, temperature=None, stop=None, stream=None,
        ).encode(),
        MODEL,
    )  # fmt: skip
    (prompt,) = request.prompts
    assert prompt.sampling.top_k is None
    assert prompt.sampling.temperature == 1.0
    assert not request.stream


@pytest.mark.parametrize(("best_of", "n"), [(1, None), (1, 2), (3, 3), (None, 2)])
def test_as_many_of_the_best_as_are_given(best_of: int | None, n: int | None) -> None:
    (prompt,) = parse_completion(complete(best_of=best_of, n=n).encode(), MODEL).prompts
    assert prompt.sampling.n == (n or 1)


@pytest.mark.parametrize("everything", [-1, 0, None])
def test_ways_to_ask_for_every_token(everything: int | None) -> None:
    assert parse_chat(chat(top_k=everything).encode(), MODEL).prompts[0].sampling.top_k is None


def test_defaults() -> None:
    assert parse_chat(chat().encode(), MODEL).prompts[0].sampling.max_tokens is None
    assert parse_completion(complete().encode(), MODEL).prompts[0].sampling.max_tokens == 16
    assert parse_generate(b'{"text": "A"}').prompts[0].sampling.max_tokens == 128
    both = parse_chat(chat(max_tokens=5, max_completion_tokens=7).encode(), MODEL)
    assert both.prompts[0].sampling.max_tokens == 7


def test_a_misspelt_field_is_answered_with_the_right_one() -> None:
    with pytest.raises(RequestError, match="did you mean temperature"):
        parse_chat(chat(temprature=1).encode(), MODEL)


def test_an_answer_of_our_own_can_be_sent_back_as_history() -> None:
    message = {"role": "assistant", "content": "A", "refusal": None, "tool_calls": None, "annotations": []}
    request = parse_chat(chat(messages=[*HELLO, message, *HELLO]).encode(), MODEL)
    messages = request.prompts[0].messages
    assert messages is not None
    assert messages[1] == {"role": "assistant", "content": "A"}
