"""The API key, the limits and CORS: who is refused, in which shape, and what a recording keeps of it."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from learnsgl.config import SECRET, Config, ServerConfig, api_key, client_api_key
from learnsgl.core import MAX_CHOICES
from learnsgl.errors import FolderError, OptionError
from learnsgl.message.codec import MAX_MESSAGE_BYTES
from learnsgl.server.cors import read_origins
from learnsgl.server.port import bind_port, is_public
from learnsgl.server.redaction import without_secrets
from learnsgl.trace import events
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
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame", max_retries=0) as client:
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


def test_the_key_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNSGL_API_KEY", "another")
    file = tmp_path / "key"
    file.write_text(f"  {KEY}\nand a remark\n", encoding="utf-8")
    assert api_key(ServerConfig(api_key_file=file)) == KEY
    with pytest.raises(OptionError, match="contradict"):
        api_key(ServerConfig(api_key="x", api_key_file=file))
    file.write_text("\nkey")
    with pytest.raises(OptionError, match="empty first line"):
        api_key(ServerConfig(api_key_file=file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(FolderError, match="can't be read"):
        api_key(ServerConfig(api_key_file=file))
    with pytest.raises(FolderError, match="can't be read"):
        api_key(ServerConfig(api_key_file=tmp_path / "none"))


def test_a_server_with_its_key_in_a_file(start: Starter, tmp_path: Path) -> None:
    """Neither its command line nor its environment tells the key, nor do its log and its recording."""
    (tmp_path / "key").write_text("sesame\n")
    server = start("--num-tokenizer", "0", "--api-key-file", str(tmp_path / "key"))
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer sesame"}).is_success
    family = psutil.Process(server.process.pid)
    for process in (family, *family.children(recursive=True)):
        assert "sesame" not in " ".join([*process.cmdline(), *process.environ().values()])
    server.process.terminate()
    assert server.wait() == 0
    assert "sesame" not in server.log
    trace = check_trace(server)
    assert all(b"sesame" not in path.read_bytes() for path in trace.path.iterdir())


def test_a_key_that_cannot_be_read_is_told_before_anything_starts(start: Starter, tmp_path: Path) -> None:
    server = start("--api-key-file", str(tmp_path / "none"), wait_ready=False)
    assert server.wait() == 2
    assert "--api-key-file" in server.log
    assert not server.trace_root.exists()


def test_which_key_our_own_clients_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    monkeypatch.delenv("LEARNSGL_API_KEY", raising=False)
    assert client_api_key(None, is_url_given=True) == "theirs"
    assert client_api_key(None, is_url_given=False) is None, "not to whoever listens at the default address"
    monkeypatch.setenv("LEARNSGL_API_KEY", "ours")
    assert client_api_key(None, is_url_given=True) == client_api_key(None, is_url_given=False) == "ours"
    assert client_api_key("given", is_url_given=True) == "given"


def test_what_one_request_may_ask_for(start: Starter) -> None:
    server = start("--num-tokenizer", "0", "--max-body-mib", "0.001", "--max-choices", "2")
    body: dict[str, Any] = {"model": MODEL, "prompt": "A", "max_tokens": 1}
    with server.http() as client:

        def refusal(route: str, **request: Any) -> tuple[int, str, str | None]:
            answer = client.post(route, **request)
            return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]

        too_long = json.dumps({"model": MODEL, "prompt": "A" * 1024, "max_tokens": 1}).encode()
        for route in ("/v1/completions", "/v1/chat/completions", "/generate", "/tokenize", "/abort_request"):
            assert refusal(route, content=too_long) == (413, "request_too_large", None)
            assert refusal(route, content=iter([too_long[:99], too_long[99:]])) == (413, "request_too_large", None)
        assert refusal("/v1/completions", json=body | {"n": 3}) == (400, "invalid_value", "n")
        params = {"n": 3, "max_new_tokens": 1}
        told = refusal("/generate", json={"text": "A", "sampling_params": params})
        assert told == (400, "invalid_value", "sampling_params.n")
        assert len(client.post("/v1/completions", json=body | {"n": 2}).json()["choices"]) == 2
        assert client.get("/health").json()["num_running"] == 0


def test_an_endless_body_is_cut_off_early(start: Starter) -> None:
    """What a client says of its body beforehand is enough to refuse it: not one byte of it is waited for."""
    server = start("--num-tokenizer", "0")
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_the_default_is_the_most_that_the_core_takes() -> None:
    assert Config().server.max_choices == MAX_CHOICES
    with pytest.raises(OptionError, match="--max-choices is 129"):
        Config().with_values({"max_choices": MAX_CHOICES + 1})
    largest = 15 * (1 << 20)
    assert 4 * largest < MAX_MESSAGE_BYTES, "each byte may become a token of 4 bytes"
    with pytest.raises(OptionError, match="--max-body-mib"):
        Config().with_values({"max_body_mib": 15.5})


def test_a_full_queue_is_told_at_once(start: Starter) -> None:
    # one row, and steps of 20 ms: the others wait
    server = start("--num-tokenizer", "0", "--seed", "20", "--max-running-requests", "1", "--max-queue", "3")
    body = {"model": MODEL, "prompt": "ABC", "max_tokens": 60}

    def ask(n: int, **fields: int) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/completions", json=body | {"n": n, **fields}, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = [answer.result() for answer in [pool.submit(ask, 1) for _ in range(8)]]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 3 <= len(answers) - len(refused) <= 4, "one has begun by the time that the last comes, or none has"
    for answer in refused:
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "queue_full")
        assert int(answer.headers["retry-after"]) > 0
    assert len(ask(5, max_tokens=4).json()["choices"]) == 5, "where nothing waits, a larger request is taken"
    server.process.terminate()
    assert server.wait() == 0
    check_trace(server)


def test_a_request_that_takes_too_long_is_ended_and_its_pages_come_back(start: Starter) -> None:
    # steps of 20 ms: 200 tokens take 4 s
    server = start("--num-tokenizer", "0", "--seed", "20", "--num-pages", "256", "--request-timeout", "0.5")
    body = {"model": MODEL, "prompt": "ABC", "max_tokens": 200}
    with server.http() as client:
        whole = client.post("/v1/completions", json=body | {"n": 2})
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "request_timeout")
        assert "0.5 s" in whole.json()["error"]["message"]
        streamed = client.post("/v1/completions", json=body | {"stream": True}).text
        first, *_, last = [json.loads(line.removeprefix("data: ")) for line in streamed.split("\n\n") if line]
        assert first["choices"][0]["text"], "the text before it has been given"
        assert last["error"]["code"] == "request_timeout"
        short = client.post("/v1/completions", json=body | {"max_tokens": 4})
        assert short.json()["choices"][0]["text"] == "ABCA"
        for _ in range(100):  # the abort is on its way
            flushed = client.post("/flush_cache")
            if flushed.is_success:
                break
        assert flushed.json()["num_pages"] > 0
        assert client.get("/health").json()["num_running"] == 0
    server.process.terminate()
    assert server.wait() == 0
    trace = check_trace(server)
    endings = [item.event for item in trace.events("api") if isinstance(item.event, events.ReqEnded)]
    assert [(end.uid, end.status, end.code) for end in endings[:3]] == [
        (1, 504, "request_timeout"), (1, 504, "request_timeout"), (2, 504, "request_timeout"),
    ]  # fmt: skip


def preflight(url: str, origin: str) -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, content-type"
    return httpx.options(f"{url}/v1/chat/completions", headers=asked)


def test_pages_of_other_origins_are_kept_out_unless_named(start: Starter) -> None:
    options = ("--num-tokenizer", "0", "--api-key", "sesame", "--host", "0.0.0.0")
    server = start(*options, "--cors-origin", "http://localhost:3000, https://a.example")
    assert "no key is asked for" not in server.log
    named = preflight(server.url, "https://a.example")
    assert named.headers["access-control-allow-origin"] == "https://a.example"
    assert "authorization" in named.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in preflight(server.url, "https://b.example").headers
    refused = httpx.get(f"{server.url}/v1/models", headers={"Origin": "http://localhost:3000"})
    assert refused.status_code == 401, "CORS opens no door that a key has shut"
    assert refused.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_an_open_server_without_a_key_warns(start: Starter) -> None:
    server = start("--num-tokenizer", "0", "--host", "0.0.0.0")
    assert "no key is asked for" in server.log
    assert "access-control-allow-origin" not in preflight(server.url, "http://localhost:3000").headers
    assert preflight(server.url, "http://localhost:3000").status_code == 405


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_this_machine_alone_is_not_public(host: str) -> None:
    with bind_port(host, 0) as bound:
        assert not is_public(bound)


@pytest.mark.parametrize("given", ["localhost:3000", "http://a.example/", "http://a.example/x", "", "http://", "a,*"])
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match="isn't an origin"):
        read_origins(given)


def test_origins_are_read() -> None:
    assert read_origins(None) == []
    assert read_origins("http://a.example:80,*, https://[::1]:3000") == [
        "http://a.example:80",
        "*",
        "https://[::1]:3000",
    ]
