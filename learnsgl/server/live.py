"""One HTTP request while it runs, as the code that answers it sees it: its choices, and what is new of each.

`requests.py` makes one for each request and feeds it the workers' replies; the streams and the whole answers read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from learnsgl.core import ReqKey
from learnsgl.message.types import Delta, ErrorInfo
from learnsgl.server.live_choice import LiveChoice, LivePrompt, Piece, joined
from learnsgl.server.new_request import NewRequest
from learnsgl.tokenizer.tool_forms import CallForm, parsers_of


class RequestFailed(Exception):
    """A request ended with an error.

    Attributes:
        info: what the client is told.
    """

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


class LiveRequest:
    """One HTTP request: each of its prompts has an id, and each choice of a prompt an answer.

    What the workers give is gathered here, and taken by the writer of the answer when its client is ready for more:
    a slow reader gets larger pieces, and nobody waits for it.

    Attributes:
        request: what the client asked for.
        uids: the ids of its prompts, in their order.
        prompts: what is known of each prompt, by its id.
        names: what its client calls its prompts, with their ids.
        choices: all choices, in the order of the answer.
        connection_closed: whether the connection to the client is closed.
        client_gone: whether the client went away before its ending, which is still to come.
        failure: the error that has ended it, if one did.
    """

    def __init__(self, first_uid: int, request: NewRequest, call_form: CallForm = CallForm.GENERIC) -> None:
        self.request = request
        self.uids = range(first_uid, first_uid + len(request.prompts))
        self.prompts = {
            uid: LivePrompt(prompt.text, awaits_logprobs=prompt.sampling.prompt_logprobs is not None)
            for uid, prompt in zip(self.uids, request.prompts, strict=True)
        }
        self.choices: list[LiveChoice] = []
        for uid, prompt in zip(self.uids, request.prompts, strict=True):
            for choice, parser in enumerate(parsers_of(call_form, prompt.tools, prompt.sampling.n)):
                every_token = request.generate is not None
                self.choices.append(LiveChoice(ReqKey(uid, choice), len(self.choices), prompt, every_token, parser))
        ids = request.generate.ids if request.generate is not None else None
        self.names = dict(zip(ids or (), self.uids, strict=False))
        self._by_key = {choice.key: choice for choice in self.choices}
        self.connection_closed = False
        self.client_gone = False
        self.failure: ErrorInfo | None = None
        self._changed: dict[int, None] = {}
        """Choices with something new, by index."""
        self._num_waiting = len(self.choices)
        """Choices that have neither been accepted nor ended."""
        self._news = asyncio.Event()
        self._num_unfinished = len(self.choices)
        self._ended = asyncio.Event()
        """Nothing is still to come."""

    @property
    def uid(self) -> int:
        """The id of its first prompt, which names the whole request."""
        return self.uids[0]

    @property
    def unfinished(self) -> list[LiveChoice]:
        """Choices that have not ended."""
        return [choice for choice in self.choices if choice.ending is None]

    def choice(self, key: ReqKey) -> LiveChoice | None:
        """The choice of that name; `None` where it isn't one of these."""
        return self._by_key.get(key)

    def add(self, choice: LiveChoice, delta: Delta) -> None:
        """Take what a worker gave for a choice."""
        waited = not choice.accepted and choice.ending is None
        was_running = choice.ending is None
        choice.add(delta)
        self._num_unfinished -= was_running and choice.ending is not None
        self._num_waiting -= waited and (choice.accepted or choice.ending is not None)
        self._changed[choice.index] = None
        if self.prompts[delta.uid].add(delta):
            siblings = (other.index for other in self.choices if other.key.uid == delta.uid)
            self._changed.update(dict.fromkeys(siblings))
        self._tell()

    def fail(self, info: ErrorInfo) -> None:
        """It can't be answered; of several errors the first one is told."""
        self.failure = self.failure or info
        self._tell()

    async def wait_accepted(self) -> None:
        """Wait until the scheduler has queued every choice.

        Raises:
            RequestFailed: one was refused.
        """
        while self._num_waiting and self.failure is None:
            await self._next_news()
        if self._num_waiting or not all(choice.accepted for choice in self.choices):
            self._raise_failure()

    async def pieces(self) -> AsyncIterator[Piece]:
        """New text as it comes, and the endings: one piece a choice at a time, the last with its ending.

        Raises:
            RequestFailed: the request ended with an error; the text before it has been given.
        """
        num_left = len(self.choices)
        while num_left:
            while not self._changed:
                self._raise_failure()
                await self._next_news()
            index = next(iter(self._changed))
            del self._changed[index]
            choice = self.choices[index]
            if self.request.echo and not choice.begin(self.prompts[choice.key.uid]):
                continue
            piece = choice.take()
            if piece is None:
                continue
            if piece.ending is not None and (piece.ending.error is not None or self.failure is not None):
                if piece.text or piece.calls:
                    yield Piece(index, piece.text, None, piece.logprobs, piece.calls)
                self._raise_failure()
            num_left -= piece.ending is not None
            yield piece

    async def whole(self) -> Sequence[Piece]:
        """All choices, once they are there; whoever waits for them isn't woken for less.

        Raises:
            RequestFailed: the request ended with an error.
        """
        await self._ended.wait()
        pieces: dict[int, list[Piece]] = {choice.index: [] for choice in self.choices}
        async for piece in self.pieces():
            pieces[piece.index].append(piece)
        return [joined(parts) for parts in pieces.values()]

    def _tell(self) -> None:
        """Wake whoever waits for what has changed."""
        self._news.set()
        if not self._num_unfinished or self.failure is not None:
            self._ended.set()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise RequestFailed(self.failure)

    async def _next_news(self) -> None:
        self._news.clear()
        await self._news.wait()
