"""Requests made up from the server's own OpenAPI document, right ones and wrong ones: no 5xx, and none that hangs."""

from __future__ import annotations

import signal
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import echo
from tests.server.running import MODEL, RunningServer

NUM_EXAMPLES = 10
TIMEOUT_S = 20


REQUIRED = {
    "/v1/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": "AB"}]},
    "/v1/completions": {"model": MODEL, "prompt": "AB"},
    "/generate": {"text": "AB"},
    "/tokenize": {"prompt": "AB"},
}


def tamed(path: str, body: Any) -> Any:
    """A body that may be answered: where all of its fields are made up, one of them is nearly always out of range."""
    if not isinstance(body, dict) or path not in REQUIRED:
        return body
    few = dict([(name, value) for name, value in body.items() if name not in REQUIRED[path]][:2])
    if len(body) % 3 == 0:  # all of what it must have is made up too
        return body
    return {name: value for name, value in few.items() if name not in ("input_ids", "messages")} | REQUIRED[path]


def try_operation(operation: Any, mode: GenerationMode) -> list[int]:
    """Send examples to an operation. Returns the statuses of their answers."""
    tried: list[int] = []

    @settings(
        max_examples=NUM_EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def try_one(case: Any) -> None:
        if mode == GenerationMode.POSITIVE:
            case.body = tamed(operation.path, case.body)
        answer = case.call(timeout=TIMEOUT_S)
        tried.append(answer.status_code)
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, case.as_curl_command()

    try_one()
    return tried


def try_all(server: RunningServer) -> dict[str, list[int]]:
    """The statuses of each operation's examples: those that keep to the schema and those that don't."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    tried: dict[str, list[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if operation.body else [GenerationMode.POSITIVE]
        for mode in modes:
            name = f"{mode.value} {operation.method.upper()} {operation.path}"
            tried[name] = try_operation(operation, mode)
    return tried


@pytest.mark.filterwarnings("default")
def test_no_request_breaks_the_server(start: Starter) -> None:
    server = start("--num-tokenizer", "0")
    tried = try_all(server)
    for path in ("/v1/chat/completions", "/v1/completions", "/generate", "/tokenize", "/detokenize"):
        assert 200 in tried[f"positive POST {path}"], "some reach the workers"
        assert 200 not in tried[f"negative POST {path}"], "what the document forbids is refused"
    assert sum(map(len, tried.values())) > 100
    answer = httpx.post(f"{server.url}/generate", json={"text": "AB", "sampling_params": {"max_new_tokens": 5}})
    assert answer.json()["text"] == echo("AB", 5)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert "Traceback" not in server.log
    check_trace(server)
