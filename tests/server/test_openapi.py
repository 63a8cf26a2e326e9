"""The OpenAPI document: it says what the parsers do, at the edge of every range."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from learnsgl.config import ServerConfig
from learnsgl.core import MAX_CHOICES, RANGES
from learnsgl.errors import RequestError
from learnsgl.server.api_server import make_app
from learnsgl.server.http import ModelCard
from learnsgl.server.http_trace import HttpTrace
from learnsgl.server.limits import Limits
from learnsgl.server.metrics import ServerMetrics
from learnsgl.server.metrics_page import MetricsPage
from learnsgl.server.new_request import NewRequest
from learnsgl.server.openapi import openapi_document
from learnsgl.server.operator_routes import OperatorRoutes
from learnsgl.server.parse import parse_chat, parse_completion
from learnsgl.server.parse_generate import parse_generate
from learnsgl.server.requests import RequestHub
from learnsgl.trace.recorder import MemoryRecorder

MODEL = "m"
PARSERS: dict[str, tuple[Callable[[bytes], NewRequest], dict[str, Any]]] = {
    "ChatCompletionRequest": (
        lambda body: parse_chat(body, MODEL),
        {"model": MODEL, "messages": [{"role": "user", "content": "A"}], "logprobs": True},
    ),
    "CompletionRequest": (lambda body: parse_completion(body, MODEL), {"model": MODEL, "prompt": "A", "echo": True}),
    "GenerateRequest": (parse_generate, {"text": "A"}),
    "GenerateSampling": (
        lambda body: parse_generate(b'{"text": "A", "sampling_params": ' + body + b"}"), {"max_new_tokens": 500},
    ),
}  # fmt: skip
INT64 = (-(2**63), 2**63 - 1)


def document(max_choices: int = MAX_CHOICES) -> dict[str, Any]:
    limits = Limits(1 << 20, max_choices)
    hub = RequestHub([], HttpTrace(MemoryRecorder()))
    operator = OperatorRoutes(MetricsPage(ServerMetrics(), MODEL, 64, 1), limits)
    app = make_app(hub, ModelCard(MODEL, MODEL, 64, 0), "run", limits, operator=operator)
    found: dict[str, Any] = json.loads(openapi_document(app.routes, MODEL, limits))
    return found


def numbers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every number that a body may hold: schema, field, type."""
    for schema in PARSERS:
        for name, field in document()["components"]["schemas"][schema]["properties"].items():
            for kind in field.get("anyOf", ()):
                if kind.get("type") in ("integer", "number"):
                    yield schema, name, kind


def is_taken(schema: str, name: str, value: object) -> bool:
    parse, body = PARSERS[schema]
    try:
        parse(json.dumps(body | {name: value}).encode())
    except RequestError as error:
        found = error.param or ""
    else:
        return True
    assert name in found, "the error is about another field"
    return False


@pytest.mark.parametrize(("schema", "name", "kind"), [pytest.param(*one, id=".".join(one[:2])) for one in numbers()])
def test_the_edges_of_every_range(schema: str, name: str, kind: dict[str, Any]) -> None:
    least, greatest = kind.get("minimum"), kind.get("maximum")
    step = 1 if kind["type"] == "integer" else 0.01
    if "exclusiveMinimum" in kind:
        assert is_taken(schema, name, kind["exclusiveMinimum"] + step)
        assert not is_taken(schema, name, kind["exclusiveMinimum"])
    if least is not None:
        least = 1 if name in ("max_tokens", "max_completion_tokens") and schema == "ChatCompletionRequest" else least
        assert is_taken(schema, name, least)
        assert not is_taken(schema, name, least - step)
    if greatest is not None and name not in ("best_of", "min_tokens", "min_new_tokens"):  # others bound these
        assert is_taken(schema, name, greatest)
        assert not is_taken(schema, name, greatest + step)


def test_every_range_of_the_core_is_told() -> None:
    told = {name: kind for schema, name, kind in numbers() if schema == "CompletionRequest"}
    for name, (least, greatest) in RANGES.items():
        if name != "prompt_logprobs":  # no field of a client's
            assert (told[name]["minimum"], told[name]["maximum"]) == (least, greatest)
    assert all("minimum" in kind or "exclusiveMinimum" in kind for kind in told.values())


def test_lists_and_texts() -> None:
    fields = document()["components"]["schemas"]["CompletionRequest"]["properties"]
    text, texts, _ = fields["stop"]["anyOf"]
    assert is_taken("CompletionRequest", "stop", "A" * text["maxLength"])
    assert not is_taken("CompletionRequest", "stop", "A" * (text["maxLength"] + 1))
    assert not is_taken("CompletionRequest", "stop", "A" * (text["minLength"] - 1))
    assert is_taken("CompletionRequest", "stop", ["A"] * texts["maxItems"])
    assert not is_taken("CompletionRequest", "stop", ["A"] * (texts["maxItems"] + 1))
    assert texts["items"] == {"type": "string", "minLength": 1, "maxLength": text["maxLength"]}
    tokens = fields["stop_token_ids"]["anyOf"][0]
    assert is_taken("CompletionRequest", "stop_token_ids", [1] * tokens["maxItems"])
    assert not is_taken("CompletionRequest", "stop_token_ids", [1] * (tokens["maxItems"] + 1))
    bias = fields["logit_bias"]["anyOf"][0]
    assert is_taken("CompletionRequest", "logit_bias", {"1": bias["additionalProperties"]["maximum"]})
    assert not is_taken("CompletionRequest", "logit_bias", {"1": bias["additionalProperties"]["minimum"] - 0.5})
    assert not is_taken("CompletionRequest", "logit_bias", {str(k): 0 for k in range(bias["maxProperties"] + 1)})


def test_what_this_server_takes_alone() -> None:
    schemas = document(max_choices=3)["components"]["schemas"]
    for schema in ("ChatCompletionRequest", "CompletionRequest", "GenerateSampling"):
        assert schemas[schema]["properties"]["n"]["anyOf"][0]["maximum"] == 3
        assert schemas[schema]["additionalProperties"] is False
    assert schemas["CompletionRequest"]["properties"]["model"] == {"enum": [MODEL]}
    assert schemas["ChatMessage"]["properties"]["role"]["enum"][0] == "system"
    assert Limits.of(ServerConfig()).max_choices == MAX_CHOICES


def test_sampling_params_are_told_field_by_field() -> None:
    one, several, _ = document()["components"]["schemas"]["GenerateRequest"]["properties"]["sampling_params"]["anyOf"]
    assert one == several["items"] == {"$ref": "#/components/schemas/GenerateSampling"}
