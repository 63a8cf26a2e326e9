"""docs/api.md says of every field what the code does with it: honoured, refused or accepted, and with which values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Route

from learnsgl.config import Config, ServerConfig
from learnsgl.server import parse_generate, tool_routes
from learnsgl.server.api_server import make_app
from learnsgl.server.http import ModelCard
from learnsgl.server.http_trace import HttpTrace
from learnsgl.server.limits import Limits
from learnsgl.server.metrics import ServerMetrics
from learnsgl.server.metrics_page import MetricsPage
from learnsgl.server.openai import IGNORED, NEUTRAL, ChatCompletionRequest, CompletionRequest, Constrained, Sampling
from learnsgl.server.operator_routes import OperatorRoutes
from learnsgl.server.requests import RequestHub
from learnsgl.server.tracing import TraceControl
from learnsgl.trace.recorder import MemoryRecorder

LIMITS = Limits.of(ServerConfig())
PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    parts = re.split(r"^#{2,3} (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> dict[str, tuple[str, str]]:
    """What a section's tables say of each field: honoured, refused or accepted, and the last column."""
    found: dict[str, tuple[str, str]] = {}
    for names, what, rest in re.findall(r"^\| (`.*?) \| (honoured|refused|accepted) \| (.*) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert name not in found, f"{name} stands there twice"
            found[name] = what, rest
    return found


def honoured(table: dict[str, tuple[str, str]]) -> set[str]:
    return {name for name, (what, _) in table.items() if what == "honoured"}


def fields(schema: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(schema)}


def values(words: str) -> tuple[Any, ...]:
    """The values in the last column of a refused field."""
    if words == "none":
        return ()
    return tuple(json.loads(word.strip("`")) for word in words.split(", "))


def check_neutral(table: dict[str, tuple[str, str]], neutral: Any) -> None:
    said = {name: values(rest) for name, (what, rest) in table.items() if what == "refused"}
    assert said == {name: tuple(allowed) for name, allowed in neutral.items()}


def test_the_fields_of_the_openai_routes() -> None:
    sampling, others = rows(sections()["Sampling fields"]), rows(sections()["Other fields"])
    assert honoured(sampling) == fields(Sampling)
    assert honoured(rows(sections()["The form of an answer"])) == fields(Constrained) - fields(Sampling)
    for title, schema in (("chat/completions", ChatCompletionRequest), ("completions", CompletionRequest)):
        table = rows(sections()[f"`/v1/{title}`"])
        assert honoured(table) == fields(schema) - fields(Constrained), title
    assert {name for name, (what, _) in others.items() if what == "accepted"} == IGNORED
    check_neutral(others, NEUTRAL)


def test_the_fields_of_generate() -> None:
    first, _, second = sections()["`/generate`"].partition("Fields of `sampling_params`")
    assert honoured(rows(first)) == fields(parse_generate.GenerateRequest)
    assert honoured(rows(second)) == fields(parse_generate.GenerateSampling)
    check_neutral(rows(first), parse_generate.OTHERS.neutral)
    check_neutral(rows(second), parse_generate.SAMPLING_OTHERS.neutral)


def test_the_fields_of_the_tools() -> None:
    parts = re.split(r"^`/(tokenize|detokenize|abort_request|flush_cache)` ", sections()["Tools"], flags=re.MULTILINE)
    tables = {name: rows(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    assert honoured(tables["tokenize"]) == fields(tool_routes.TokenizeRequest)
    assert honoured(tables["detokenize"]) == fields(tool_routes.DetokenizeRequest)
    assert honoured(tables["abort_request"]) == fields(tool_routes.AbortRequest)
    check_neutral(tables["tokenize"], tool_routes.OTHERS.neutral)


def test_every_route_is_told() -> None:
    control = TraceControl(Config(), [], {}, MemoryRecorder(), list, None)
    operator = OperatorRoutes(MetricsPage(ServerMetrics(), "m", 64, 1), LIMITS, control)
    hub = RequestHub([], HttpTrace(MemoryRecorder()))
    app = make_app(hub, ModelCard("m", "m", 64, 0), "run", LIMITS, operator=operator)
    served = {
        (route.path.replace("{model_id:path}", "{id}"), method)
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or set()
    }
    told = re.findall(r"^\| `(/[^`]+)` \| ([A-Z, ]+) \|", PAGE, re.MULTILINE)
    assert {(path, method) for path, methods in told for method in methods.split(", ")} == served


@pytest.mark.parametrize("code", sorted(set(re.findall(r"\(`([a-z_]+)`\)", PAGE))))
def test_the_codes_of_errors_are_in_troubleshooting(code: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert f"`{code}`" in page
