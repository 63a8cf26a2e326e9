"""The chat's client: what it makes of servers that answer, refuse, babble and break off."""

from __future__ import annotations

import httpx
import pytest

from learnsgl.chat.client import ChatClient, Reply
from learnsgl.errors import OptionError, RequestError, ServingError
from tests.chat.talk import URL, USAGE, Server, chunk, event, refuse, stream, whole


def ask(server: Server, reply: Reply | None = None) -> str:
    asked = [{"role": "user", "content": "Hi"}]
    return "".join(server.client().ask(reply or Reply(), "m", asked, {"temperature": 0}))


def test_an_answer_comes_with_all_that_the_server_tells() -> None:
    server, reply = Server(whole("He", "llo", finish_reason="length")), Reply()
    assert ask(server, reply) == reply.text == "Hello"
    assert (reply.finish_reason, reply.request_id, reply.usage) == ("length", "chatcmpl-1", USAGE)
    assert reply.first_ns is not None
    assert reply.last_ns is not None
    assert reply.asked_ns <= reply.first_ns <= reply.last_ns
    (body,) = server.asked
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert (body["temperature"], body["stream"], body["stream_options"]) == (0, True, {"include_usage": True})


def test_a_server_without_an_end_mark_has_still_answered() -> None:
    assert ask(Server(stream(chunk("Hi", "stop")))) == "Hi"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (stream(chunk("He")), "broke the answer off"),
        (stream(chunk("He"), httpx.ReadError("reset")), "the connection to .* broke: reset"),
        (stream(chunk("He"), event({"error": {"message": "the engine failed"}})), "broke the answer off: the engine f"),
        (stream(b"data: {\n\n"), "no JSON object: '{'"),
        (stream(b"data: [1]\n\n"), "no JSON object"),
        (httpx.ConnectError("refused"), f"nobody answers at {URL}"),
        (httpx.ReadTimeout(""), "broke: ReadTimeout"),
    ],
)
def test_faults_of_the_server_are_told(answer: httpx.Response | Exception, said: str) -> None:
    with pytest.raises(ServingError, match=said):
        ask(Server(answer))


def test_refusals_carry_the_servers_words() -> None:
    with pytest.raises(RequestError, match="too long") as caught:
        ask(Server(refuse(400, "context_length_exceeded", "too long")))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    with pytest.raises(RequestError, match="HTTP 502 Bad Gateway"):
        ask(Server(httpx.Response(502, text="<html>")))


def test_models_and_a_key() -> None:
    server = Server(httpx.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]}), httpx.Response(200, text="Hi"))
    client = server.client(api_key="k")
    assert client.models() == ["a", "b"]
    assert server.headers[0]["Authorization"] == "Bearer k"
    with pytest.raises(ServingError, match="no OpenAI-compatible server"):
        client.models()
    with pytest.raises(RequestError, match="who are you"):
        Server(refuse(401, "invalid_api_key", "who are you")).client().models()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://[::1"])
def test_a_url_must_be_one(url: str) -> None:
    with pytest.raises(OptionError, match="--url is"):
        ChatClient(url)


def test_a_url_may_end_in_v1() -> None:
    assert ChatClient("http://127.0.0.1:8000/v1/").url == "http://127.0.0.1:8000"
