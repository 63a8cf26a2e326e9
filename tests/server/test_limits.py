"""The API key and the queue's limit: who is refused, in which shape, and what a recording keeps of it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from learnsgl.config import SECRET, Config, ServerConfig, api_key
from learnsgl.server.redaction import without_secrets
from learnsgl.trace.manifest import read_manifest
from tests.server.conftest import Starter, check_trace
from tests.server.running import MODEL

KEY = "a key, with ünicode"


def test_without_the_key_only_health_answers(start: Starter) -> None:
    server = start("--num-tokenizer", "0", "--api-key", "sesame")
    assert httpx.get(f"{server.url}/health").is_success
    for headers in (
        {},
        {"Authorization": "Bearer sesam"},
        {"Authorization": "Basic sesame"},
        {"Authorization": "Bearer"},
    ):
        for route in ("/v1/models", "/version"):
            answer = httpx.get(server.url + route, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["type"], error["code"]) == (
                401,
                "authentication_error",
                "invalid_api_key",
            )
            assert answer.headers["www-authenticate"] == "Bearer"
    body = {"text": "A", "sampling_params": {"max_new_tokens": 1}}
    assert httpx.post(f"{server.url}/generate", json=body).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        server.openai().models.list()
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame", max_retries=0)
    assert client.completions.create(model=MODEL, prompt="AB", max_tokens=2).choices[0].text == "AB"
    server.process.terminate()
    assert server.wait() == 0
    trace = check_trace(server)
    assert "sesame" not in json.dumps(read_manifest(trace.path))
    assert all(b"sesame" not in path.read_bytes() for path in trace.path.iterdir())


def test_a_secret_is_blotted_out() -> None:
    config = Config().with_values({"api_key": KEY})
    assert KEY not in json.dumps(config.to_json(), ensure_ascii=False)
    assert Config().to_json()["server"]["api_key"] is None
    words = ["serve", "--api-key", KEY, "--port", "0"]
    assert without_secrets(words) == ["serve", "--api-key", SECRET, "--port", "0"]
    assert without_secrets([f"--api-key={KEY}"]) == [f"--api-key={SECRET}"]


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNSGL_API_KEY", "")
    assert api_key(ServerConfig()) is None
    monkeypatch.setenv("LEARNSGL_API_KEY", KEY)
    assert api_key(ServerConfig()) == KEY
    assert api_key(ServerConfig(api_key="other")) == "other"


def test_a_full_queue_is_told_at_once(start: Starter) -> None:
    # one row, and steps of 20 ms: the others wait
    server = start("--num-tokenizer", "0", "--seed", "20", "--max-running-requests", "1", "--max-queue", "3")
    body = {"model": MODEL, "prompt": "ABC", "max_tokens": 60}

    def ask(n: int) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/completions", json=body | {"n": n}, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = [answer.result() for answer in [pool.submit(ask, 1) for _ in range(8)]]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 3 <= len(answers) - len(refused) <= 4, "one has begun by the time that the last comes, or none has"
    for answer in refused:
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "queue_full")
        assert int(answer.headers["retry-after"]) > 0
    assert len(ask(5).json()["choices"]) == 5, "where nothing waits, a larger request is taken"
    server.process.terminate()
    assert server.wait() == 0
    check_trace(server)
