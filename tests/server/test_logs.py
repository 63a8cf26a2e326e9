"""The log and X-Request-Id: one line an event, with the trace's numbers, and never a client's text."""

from __future__ import annotations

import asyncio
import re
import signal

import httpx
from starlette.types import Receive, Scope, Send

from learnsgl.server.request_ids import RequestIds
from learnsgl.trace import events
from tests.server.conftest import Starter, check_trace
from tests.server.running import MODEL

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [\w-]+ (DEBUG|INFO|WARNING|ERROR) [\w.]+: .+")
BODY = {"model": MODEL, "prompt": "SECRETPROMPT", "max_tokens": 5}


def test_one_line_an_event_with_the_numbers_of_the_trace(start: Starter) -> None:
    server = start("--num-tokenizer", "0")
    with server.http() as client:
        first = client.post("/v1/completions", json=BODY | {"n": 2})
        named = client.post("/v1/completions", json=BODY | {"stream": True}, headers={"X-Request-Id": "mine-7"})
        refused = client.post("/v1/completions", json=BODY | {"SECRETFIELD": 1})
        lost = client.get("/SECRETPATH")
    run_id = first.json()["id"].split("-")[1]
    assert first.headers["x-request-id"] == f"{run_id}-1"
    assert named.headers["x-request-id"] == "mine-7"
    assert (refused.status_code, refused.headers["x-request-id"]) == (400, f"{run_id}-x1")
    assert (lost.status_code, lost.headers["x-request-id"]) == (404, f"{run_id}-x2")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert all(LINE.fullmatch(line) for line in server.log.splitlines()), server.log
    assert "SECRET" not in server.log
    ended = [e.event for e in check_trace(server).events("api") if isinstance(e.event, events.ReqEnded)]
    for event in ended:
        assert len(re.findall(rf"request {event.uid}\.{event.choice} ended: length, status 200,", server.log)) == 1
    assert len(ended) == server.log.count(" ended: ") == 3
    assert re.search(r"request 2 received: /v1/completions, streamed, .*, X-Request-Id mine-7$", server.log, re.M)
    assert "request refused: /v1/completions, status 400, unknown_parameter" in server.log


def test_the_level_leaves_lines_out_and_puts_them_in(start: Starter) -> None:
    quiet, loud = (start("--num-tokenizer", "0", "--log-level", level) for level in ("warning", "debug"))
    for server in (quiet, loud):
        with server.http() as client:
            assert client.post("/v1/completions", json=BODY).is_success
        server.process.terminate()
        assert server.wait() == 0
        assert "SECRET" not in server.log
    assert quiet.log == ""
    assert '"POST /v1/completions HTTP/1.1" 200' in loud.log


def test_a_name_that_does_not_belong_into_a_log_is_not_taken() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(name: bytes) -> str:
        transport = httpx.ASGITransport(RequestIds(app, "run"))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer = await client.get("/", headers={"X-Request-Id": name})
        return str(answer.headers["x-request-id"])

    for name in (b"a b", "ä".encode(), b"x" * 129, b"", b"a\x1b[2J"):
        assert asyncio.run(ask(name)) == "run-x1"
    assert asyncio.run(ask(b"x" * 128)) == "x" * 128
