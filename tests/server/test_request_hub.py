"""The hub of requests and the HTTP app over it, without any worker: each request ends once, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import httpx
import numpy as np
import pytest

from learnsgl.config import ServerConfig
from learnsgl.core import FinishReason, SamplingParams
from learnsgl.errors import MessageError, RequestError
from learnsgl.message.channel import SendChannel
from learnsgl.message.types import AbortMsg, Delta, Ending, ErrorInfo, TokenizeMsg, UserReply
from learnsgl.server.api_server import make_app
from learnsgl.server.http import ModelCard
from learnsgl.server.http_trace import HttpTrace
from learnsgl.server.limits import Limits
from learnsgl.server.live import RequestFailed
from learnsgl.server.live_choice import Piece
from learnsgl.server.new_request import NewPrompt, NewRequest
from learnsgl.server.requests import SHUTTING_DOWN, RequestHub
from learnsgl.trace import events
from learnsgl.trace.recorder import MemoryRecorder

REQUEST = NewRequest((NewPrompt(SamplingParams(), text="A"),), True, False, "prompt", 10)


class Tokenizer:
    """A channel that keeps what it is given, and may be broken."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.broken = False

    def send(self, messages: Sequence[Any]) -> None:
        if self.broken:
            raise MessageError("too large")
        self.sent += messages


class Bench:
    """A hub and what is around it."""

    def __init__(self, num_tokenizer: int = 1) -> None:
        self.tokenizers = [Tokenizer() for _ in range(num_tokenizer)]
        self.recorder = MemoryRecorder()
        self.hub = RequestHub(cast(list[SendChannel], self.tokenizers), HttpTrace(self.recorder))

    def reply(self, *deltas: Delta) -> None:
        self.hub.on_messages([UserReply(list(deltas))])

    def ended(self) -> list[tuple[int, str, int, str | None]]:
        return [
            (event.uid, event.reason, event.status, event.code)
            for event in self.recorder.events
            if isinstance(event, events.ReqEnded)
        ]


def end(uid: int, reason: FinishReason = FinishReason.STOP, error: ErrorInfo | None = None) -> Delta:
    return Delta(uid, ending=Ending(uid, 0, reason, 5, 1, 2, error))


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(body(), 20)

    asyncio.run(main())


def test_a_request_and_its_abort_go_to_the_same_tokenizer() -> None:
    async def body() -> None:
        bench = Bench(num_tokenizer=3)
        for live in [bench.hub.submit(REQUEST, "/generate") for _ in range(6)]:
            bench.hub.client_left(live)
            bench.hub.client_left(live)
        for index, tokenizer in enumerate(bench.tokenizers):
            uids = [uid for uid in (1, 2, 3, 4, 5, 6) if uid % 3 == index]
            assert [message.uid for message in tokenizer.sent if isinstance(message, TokenizeMsg)] == uids
            assert [message.uid for message in tokenizer.sent if isinstance(message, AbortMsg)] == uids

    run(body)


def test_text_is_gathered_for_a_slow_reader() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(REQUEST, "/generate")
        bench.reply(Delta(1, accepted=True))
        await live.wait_accepted()
        pieces = live.pieces()
        bench.reply(Delta(1, text="a"))
        assert await anext(pieces) == Piece(0, "a")
        bench.reply(Delta(1, text="b"), Delta(1, text="c"))
        bench.reply(Delta(1, text="d"), end(1))
        piece = await anext(pieces)
        assert (piece.text, piece.ending is not None) == ("bcd", True)
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
        assert bench.ended() == [(1, "stop", 200, None)]

    run(body)


def test_an_error_in_the_middle_comes_after_the_text_before_it() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(REQUEST, "/generate")
        bench.reply(Delta(1, accepted=True, text="a"), end(1, FinishReason.ERROR, ErrorInfo("broke", 500, "x")))
        pieces = live.pieces()
        assert await anext(pieces) == Piece(0, "a")
        with pytest.raises(RequestFailed, match="broke"):
            await anext(pieces)

    run(body)


def test_a_client_that_left_ends_when_the_scheduler_says_so() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(REQUEST, "/generate")
        bench.hub.client_left(live)
        assert bench.ended() == []
        assert bench.hub.num_running == 1
        bench.reply(end(1, FinishReason.ABORT))
        bench.reply(end(1, FinishReason.ABORT))  # of no more use
        assert bench.ended() == [(1, "abort", 499, "client_disconnected")]
        await bench.hub.wait_idle()

    run(body)


def test_ending_all_waits_for_the_scheduler_to_let_go() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(REQUEST, "/generate")
        bench.hub.refuse_new(SHUTTING_DOWN)
        bench.hub.end_all(SHUTTING_DOWN)
        with pytest.raises(RequestFailed, match="shutting down"):
            await live.whole()
        with pytest.raises(RequestError, match="shutting down"):
            bench.hub.submit(REQUEST, "/generate")
        settled = asyncio.ensure_future(bench.hub.wait_settled())
        await asyncio.sleep(0)
        assert not settled.done()
        bench.reply(Delta(1, text="late"), end(1, FinishReason.ABORT))
        await settled
        assert bench.ended() == [(1, "error", 503, "shutting_down")]
        assert bench.tokenizers[0].sent[-1] == AbortMsg(1)

    run(body)


def test_a_request_that_cannot_be_sent_is_not_left_behind() -> None:
    async def body() -> None:
        bench = Bench()
        bench.tokenizers[0].broken = True
        with pytest.raises(MessageError):
            bench.hub.submit(REQUEST, "/generate")
        assert bench.hub.num_running == 0
        assert bench.ended() == [(1, "error", 500, "internal_error")]

    run(body)


def several(n: int, *texts: str) -> NewRequest:
    prompts = tuple(NewPrompt(SamplingParams(n=n), text=text) for text in texts)
    return NewRequest(prompts, True, False, "prompt", 10)


def test_every_choice_of_every_prompt_ends_once() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(several(2, "A", "B"), "/v1/completions")
        assert [choice.key for choice in live.choices] == [(1, 0), (1, 1), (2, 0), (2, 1)]
        assert bench.hub.num_running == 2
        for uid, choice in ((2, 1), (1, 0), (2, 1), (2, 0), (1, 1)):
            bench.reply(Delta(uid, choice, text=f"{uid}{choice}", ending=Ending(uid, choice, FinishReason.STOP)))
        assert [(piece.index, piece.text) for piece in await live.whole()] == [
            (0, "10"), (1, "11"), (2, "20"), (3, "21"),
        ]  # fmt: skip
        ended = [event for event in bench.recorder.events if isinstance(event, events.ReqEnded)]
        assert [(event.uid, event.choice) for event in ended] == [(2, 1), (1, 0), (2, 0), (1, 1)]
        assert bench.hub.num_running == 0
        received = [event for event in bench.recorder.events if isinstance(event, events.HttpReceived)]
        assert [(event.uid, event.num_choices, event.first_uid) for event in received] == [(1, 2, 1), (2, 2, 1)]

    run(body)


def test_one_prompt_that_is_refused_ends_the_others() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(several(1, "A", "B"), "/v1/completions")
        bench.reply(Delta(1, accepted=True), end(2, FinishReason.ERROR, ErrorInfo("too long", 400, "x", "prompt")))
        with pytest.raises(RequestFailed, match="too long"):
            await live.wait_accepted()
        assert bench.tokenizers[0].sent[-1] == AbortMsg(1)
        bench.reply(end(1, FinishReason.ABORT))
        assert bench.ended() == [(2, "error", 400, "x"), (1, "abort", 400, "x")]
        await bench.hub.wait_idle()

    run(body)


def test_a_stream_does_not_begin_before_every_choice_is_accepted() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(several(2, "A"), "/v1/completions")
        waiting = asyncio.ensure_future(live.wait_accepted())
        bench.reply(Delta(1, 1, accepted=True))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        bench.reply(Delta(1, 0, accepted=True))
        await waiting

    run(body)


def test_chunks_are_recorded_with_their_choice() -> None:
    async def body() -> None:
        bench = Bench()
        async with http_client(bench) as client:
            fields = {"model": "m", "prompt": ["A", "B"], "n": 2, "stream": True}
            asking = asyncio.ensure_future(client.post("/v1/completions", json=fields))
            while not bench.hub.num_running:
                await asyncio.sleep(0.001)
            keys = [(1, 0), (1, 1), (2, 0), (2, 1)]
            bench.reply(*(Delta(*key, accepted=True) for key in keys))
            bench.reply(*(Delta(*key, ending=Ending(*key, FinishReason.STOP)) for key in keys[::-1]))
            await asking
        (streamed,) = [event for event in bench.recorder.events if isinstance(event, events.HttpStreamed)]
        uids, choices = np.frombuffer(streamed.uids, "<i8").tolist(), np.frombuffer(streamed.choices, "<i4").tolist()
        assert sorted(set(zip(uids, choices, strict=True))) == keys
        answered = [event.uid for event in bench.recorder.events if isinstance(event, events.HttpAnswered)]
        assert answered == [1, 2]

    run(body)


@contextlib.asynccontextmanager
async def http_client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(bench.hub, ModelCard("m", "m", 64, 0), "run", Limits.of(ServerConfig()))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def test_a_burst_of_requests_lets_small_routes_through() -> None:
    """By order, not by time: `/health`, asked when the first of 500 has begun, is answered before the last has."""

    async def body() -> None:
        bench = Bench()
        async with http_client(bench) as client:
            asking = [asyncio.ensure_future(client.post("/generate", json={"text": "A"})) for _ in range(500)]
            while not bench.hub.num_running:
                await asyncio.sleep(0)
            assert (await client.get("/health")).json()["num_running"] < 400
            while bench.hub.num_running < 500:
                await asyncio.sleep(0)
            sent = [message.uid for message in bench.tokenizers[0].sent if isinstance(message, TokenizeMsg)]
            assert sent == list(range(1, 501)), "in the order in which they came"
            bench.hub.end_all(SHUTTING_DOWN)
            await asyncio.gather(*asking)

    run(body)


def test_who_waits_for_a_whole_answer_is_woken_for_its_end_alone() -> None:
    async def body() -> None:
        bench = Bench()
        live = bench.hub.submit(REQUEST, "/generate")
        waiting = asyncio.ensure_future(live.whole())
        for _ in range(3):
            bench.reply(Delta(1, accepted=True, text="x", num_tokens=1))
            await asyncio.sleep(0)
        assert live.choices[0].take() is not None, "nobody has taken it yet"
        bench.reply(Delta(1, text="y", num_tokens=1), end(1))
        assert [piece.text for piece in await waiting] == ["y"]

    run(body)


def test_a_defect_is_a_500_in_openai_shape() -> None:
    async def body() -> None:
        bench = Bench()
        bench.tokenizers[0].broken = True
        async with http_client(bench) as client:
            answer = await client.post("/generate", json={"text": "A"})
            assert answer.status_code == 500
            assert answer.json()["error"] == {
                "message": "the server failed on this request; its log says why",
                "type": "server_error",
                "param": None,
                "code": "internal_error",
            }

    run(body)


def test_the_trace_tells_what_was_received_refused_streamed_and_answered() -> None:
    async def body() -> None:
        bench = Bench()
        async with http_client(bench) as client:
            await client.get("/nothing/secret")
            asking = asyncio.ensure_future(client.post("/generate", json={"text": "A", "stream": True}))
            while not bench.hub.num_running:
                await asyncio.sleep(0.001)
            bench.reply(Delta(1, accepted=True, text="x"))
            await asyncio.sleep(0.01)
            bench.reply(end(1))
            answer = await asking
        kinds = [event.__struct_config__.tag for event in bench.recorder.events]
        assert kinds == ["http.refused", "http.received", "req.ended", "http.streamed", "http.answered"]
        refused, received, _, streamed, answered = bench.recorder.events
        assert isinstance(refused, events.HttpRefused)
        assert (refused.route, refused.status) == ("(unknown)", 404)
        assert isinstance(received, events.HttpReceived)
        assert (received.route, received.stream) == ("/generate", True)
        assert isinstance(streamed, events.HttpStreamed)
        assert len(streamed.uids) == 8 * answer.text.count("data: ")
        assert isinstance(answered, events.HttpAnswered)
        assert answered.body_bytes == len(answer.content)

    run(body)
