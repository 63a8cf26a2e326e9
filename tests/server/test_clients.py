"""The official `openai` client, sync and async, and LangChain's, against a running server as their users call them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

from learnsgl.trace import events
from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import echo
from tests.server.running import MODEL, RunningServer

HELLO: Any = [
    {"role": "system", "content": "BE BRIEF"},
    {"role": "user", "content": [{"type": "text", "text": "HELLO"}]},
]
KEEP_ON = {"ignore_eos": True}


def async_client(server: RunningServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


# ---------------------------------------------------------------- openai


def test_every_field_that_the_client_can_send(server: RunningServer) -> None:
    """Each argument of `create` that this server honours, at once; the client checks the answer's shape."""
    answer = server.openai().chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0.5, top_p=0.9, seed=1, n=2, stop=["never", "nowhere"],
        frequency_penalty=0.1, presence_penalty=0.1, logit_bias={"5": 1}, logprobs=True, top_logprobs=2,
        max_completion_tokens=20, user="me", metadata={"a": "b"}, store=False, parallel_tool_calls=True,
        service_tier="auto", response_format={"type": "text"}, tool_choice="none", modalities=["text"],
        extra_body={
            "top_k": 5, "min_p": 0.1, "min_tokens": 2, "repetition_penalty": 1.1, "stop_token_ids": [7], **KEEP_ON
        },
    )  # type: ignore[call-overload]  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.message.role == "assistant"
        assert len(choice.logprobs.content) == 20
        assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 40


def test_a_stream_as_a_context(server: RunningServer) -> None:
    with server.openai().chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=40, stream=True, extra_body=KEEP_ON
    ) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.created for chunk in chunks} == {chunks[0].created}
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_clients_own_stream_helper(server: RunningServer) -> None:
    """It puts the chunks together again, log-probabilities and usage too."""
    options: Any = {"model": MODEL, "messages": HELLO, "logprobs": True, "n": 2}  # the template's end is echoed, too
    with server.openai().chat.completions.stream(**options, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        whole = stream.get_final_completion()
    assert {"content.delta", "content.done", "chunk", "logprobs.content.delta"} <= kinds
    plain = server.openai().chat.completions.create(**options)
    for ours, theirs in zip(plain.choices, whole.choices, strict=True):
        assert theirs.message.content == ours.message.content
        assert theirs.finish_reason == ours.finish_reason == "stop"
        assert theirs.logprobs is not None
        assert theirs.logprobs.content == ours.logprobs.content
    assert whole.usage is not None
    assert whole.usage.total_tokens == plain.usage.total_tokens


def test_many_at_once_each_get_their_own(server: RunningServer) -> None:
    async def main() -> None:
        async with async_client(server) as client:

            async def whole(k: int) -> str:
                answer = await client.completions.create(model=MODEL, prompt=f"{k:03}", max_tokens=k % 40 + 1)
                return answer.choices[0].text

            async def streamed(k: int) -> str:
                stream = await client.completions.create(
                    model=MODEL, prompt=f"{k:03}", max_tokens=k % 40 + 1, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            texts = await asyncio.gather(*(streamed(k) if k % 2 else whole(k) for k in range(120)))
            assert texts == [echo(f"{k:03}", k % 40 + 1) for k in range(120)]
            assert [model.id async for model in client.models.list()] == [MODEL]

    asyncio.run(main())


def test_the_sync_client_may_lose_patience_or_leave(start: Starter) -> None:
    """Steps of 20 ms: what nobody waits for any more is ended long before its 240 tokens are there."""
    server = start("--num-tokenizer", "0", "--seed", "20")
    client = server.openai()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).completions.create(model=MODEL, prompt="ABC", max_tokens=240)
    with client.completions.create(model=MODEL, prompt="DEF", max_tokens=240, stream=True) as stream:
        assert next(iter(stream)).choices[0].text
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt="GHI", max_tokens=2, extra_headers={"X-Request-Id": "mine"}
    )
    assert (raw.parse().choices[0].text, raw.headers["x-request-id"]) == ("GH", "mine")
    server.process.terminate()
    assert server.wait() == 0
    endings = [item.event for item in check_trace(server).events("api") if isinstance(item.event, events.ReqEnded)]
    assert [end.reason for end in endings] == ["abort", "abort", "length"]


def test_the_async_client_gets_errors_and_may_leave(server: RunningServer) -> None:
    async def main() -> None:
        async with async_client(server) as client:
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model=MODEL, messages=HELLO, top_logprobs=3)
            assert caught.value.param == "top_logprobs"
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("gpt-4")
            with pytest.raises(openai.BadRequestError) as caught:
                await client.completions.create(model=MODEL, prompt="A" * 300, stream=True)
            assert caught.value.code == "context_length_exceeded"
            stream = await client.completions.create(model=MODEL, prompt="ABC", max_tokens=240, stream=True)
            async for _ in stream:
                break
            await stream.close()
            answer = await client.completions.create(model=MODEL, prompt="ABC", max_tokens=3)
            assert answer.choices[0].text == "ABC"

    asyncio.run(main())


# ---------------------------------------------------------------- LangChain


def chat_model(server: RunningServer, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model=MODEL, max_retries=0, max_tokens=40, extra_body=KEEP_ON,
        http_client=server.pool, **options,
    )  # type: ignore[call-arg]  # fmt: skip


def test_langchain_chats(server: RunningServer) -> None:
    messages = [SystemMessage("BE BRIEF"), HumanMessage("HELLO")]
    answer = chat_model(server, temperature=0, seed=3, stop=["never"]).invoke(messages)
    assert answer.content
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 40
    chunks = list(chat_model(server, stream_usage=True).stream(messages))
    assert "".join(str(chunk.content) for chunk in chunks) == answer.content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 40
    history = [*messages, answer, HumanMessage("AGAIN")]
    assert chat_model(server).invoke(history).content, "its own answer goes back as history"


def test_langchain_batches_choices_and_log_probabilities(server: RunningServer) -> None:
    model = chat_model(server, n=2, logprobs=True, top_logprobs=1)
    (generations,) = model.generate([[HumanMessage("A")]]).generations
    assert len(generations) == 2
    for generation in generations:
        assert generation.generation_info is not None
        assert len(generation.generation_info["logprobs"]["content"]) == 40

    async def batch() -> list[AIMessage]:
        async with httpx.AsyncClient() as pool:
            return await chat_model(server, http_async_client=pool).abatch(["A", "BB"])

    answers = asyncio.run(batch())
    assert answers[0].content == generations[0].text != answers[1].content


def test_langchain_completions(server: RunningServer) -> None:
    model = OpenAI(
        base_url=f"{server.url}/v1", api_key="none", model=MODEL, max_tokens=5, max_retries=0, http_client=server.pool
    )  # type: ignore[call-arg]  # fmt: skip
    assert model.invoke("ABC") == "ABCAB"
    assert "".join(model.stream("ABC")) == "ABCAB"
    assert model.batch(["AB", "CD"]) == ["ABABA", "CDCDC"], "several prompts in one body"


def test_langchain_gets_our_errors(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat_model(server, temperature=-1).invoke("A")
