"""Sending the demo's questions through the `openai` client, all at once, as any program would.

`run.py` calls `ask_all`. What each client was told (text, ending, usage) is kept, to be compared with the trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httpx
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.resources.chat.completions import AsyncCompletions
from openai.types.chat import ChatCompletionMessageParam

from learnsgl.demo.questions import Question

TIMEOUT_S = 300.0
APART_S = 0.003
"""From one question to the next, so that they arrive in their order and one demo's picture is like the next one's."""


@dataclass(frozen=True)
class Answer:
    """What a client was told.

    Attributes:
        question: what it had asked.
        uid: the request's id in the trace: the last part of the id that the answer carries.
        text: the whole answer.
        finish_reason: stop or length.
        prompt_tokens, cached_tokens, completion_tokens: its usage.
    """

    question: Question
    uid: int
    text: str
    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


async def ask_all(url: str, questions: Sequence[Question], on_text: Callable[[Question, str], None]) -> list[Answer]:
    """Ask all questions at once (milliseconds apart), greedy and streamed.

    Args:
        url: the server's, without `/v1`.
        questions: what to ask.
        on_text: told of each piece of text as it arrives.

    Returns:
        The answers, in the order of the questions.

    Raises:
        openai.OpenAIError: the server refused one, or went away.
    """
    turns = _Turns(len(questions))
    # no proxy from the environment: the server is on this machine
    http = DefaultAsyncHttpxClient(trust_env=False, event_hooks={"request": [turns.on_request]})
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=TIMEOUT_S, http_client=http
    ) as client:
        # what the client puts off until its first call happens now: a connection for each question, imports
        models, chats = await asyncio.gather(*(client.models.list() for _ in questions)), client.chat.completions
        model = models[0].data[0].id
        return await asyncio.gather(
            *(_ask(chats, model, question, turns.wait(place), on_text) for place, question in enumerate(questions))
        )


class _Turns:
    """Lets each question be sent shortly after the one before it, however long the client takes to prepare them."""

    def __init__(self, num_questions: int) -> None:
        self._sent = [asyncio.Event() for _ in range(num_questions)]

    async def on_request(self, request: httpx.Request) -> None:
        """A request is about to be sent; those that ask something are POSTs."""
        if request.method == "POST":
            next(event for event in self._sent if not event.is_set()).set()

    async def wait(self, place: int) -> None:
        """Wait for the turn of the question with this place."""
        if place > 0:
            await self._sent[place - 1].wait()
            await asyncio.sleep(APART_S)


async def _ask(
    chats: AsyncCompletions,
    model: str,
    question: Question,
    turn: Awaitable[None],
    on_text: Callable[[Question, str], None],
) -> Answer:
    await turn
    stream = await chats.create(
        model=model,
        messages=cast(list[ChatCompletionMessageParam], question.messages),
        temperature=0,
        max_tokens=question.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    request_id, finish_reason, usage, pieces = "", None, None, []
    async for chunk in stream:
        request_id, usage = chunk.id, chunk.usage or usage
        for choice in chunk.choices:
            finish_reason = choice.finish_reason or finish_reason
            if choice.delta.content:
                pieces.append(choice.delta.content)
                on_text(question, choice.delta.content)
    return Answer(question, int(request_id.rpartition("-")[2]), "".join(pieces), finish_reason, *_tokens(usage))


def _tokens(usage: Any) -> tuple[int, int, int]:
    details = usage.prompt_tokens_details
    return usage.prompt_tokens, details.cached_tokens if details else 0, usage.completion_tokens
