"""One HTTP request while it runs, as the code that answers it sees it: its choices, and what is new of each.

`requests.py` makes one for each request and feeds it the workers' replies; the streams and the whole answers read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from learnsgl.core import ReqKey
from learnsgl.message.types import Delta, Ending, ErrorInfo
from learnsgl.server.new_request import NewPrompt, NewRequest


class RequestFailed(Exception):
    """A request ended with an error.

    Attributes:
        info: what the client is told.
    """

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one choice, or all of it.

    Attributes:
        index: the choice's number in the answer.
        text: its text.
        ending: why it ended, once it has.
    """

    index: int
    text: str
    ending: Ending | None = None


@dataclass(slots=True, eq=False)
class LiveChoice:
    """One answer to one prompt, as far as it has come.

    Attributes:
        key: what names it in messages and in the trace.
        index: its number in the HTTP answer.
        prompt: what it answers.
        accepted: whether the scheduler has queued it.
        ending: why it ended, once it has.
    """

    key: ReqKey
    index: int
    prompt: NewPrompt
    accepted: bool = False
    ending: Ending | None = None
    _texts: list[str] = field(default_factory=list)
    _is_told: bool = False

    def add(self, delta: Delta) -> None:
        """Take what a worker gave."""
        self.accepted = self.accepted or delta.accepted
        if delta.text:
            self._texts.append(delta.text)
        if delta.ending is not None:
            self.ending = delta.ending

    def begin_with(self, text: str) -> None:
        """Put text ahead of what has come."""
        self._texts.insert(0, text)

    def take(self) -> Piece | None:
        """What is new since the last time; `None` where nothing is."""
        if self._is_told or not (self._texts or self.ending):
            return None
        text = "".join(self._texts)
        self._texts.clear()
        self._is_told = self.ending is not None
        return Piece(self.index, text, self.ending)


class LiveRequest:
    """One HTTP request: each of its prompts has an id, and each choice of a prompt an answer.

    What the workers give is gathered here, and taken by the writer of the answer when its client is ready for more:
    a slow reader gets larger pieces, and nobody waits for it.

    Attributes:
        request: what the client asked for.
        uids: the ids of its prompts, in their order.
        choices: all choices, in the order of the answer.
        connection_closed: whether the connection to the client is closed.
        client_gone: whether the client went away before its ending, which is still to come.
        failure: the error that has ended it, if one did.
    """

    def __init__(self, first_uid: int, request: NewRequest) -> None:
        self.request = request
        self.uids = range(first_uid, first_uid + len(request.prompts))
        self.choices: list[LiveChoice] = []
        for uid, prompt in zip(self.uids, request.prompts, strict=True):
            for choice in range(prompt.sampling.n):
                self.choices.append(LiveChoice(ReqKey(uid, choice), len(self.choices), prompt))
        self._by_key = {choice.key: choice for choice in self.choices}
        self.connection_closed = False
        self.client_gone = False
        self.failure: ErrorInfo | None = None
        self._prompt_texts = {
            uid: prompt.text for uid, prompt in zip(self.uids, request.prompts, strict=True) if prompt.text is not None
        }
        self._changed: dict[int, None] = {}
        """Choices with something new, by index."""
        self._num_waiting = len(self.choices)
        """Choices that have neither been accepted nor ended."""
        self._news = asyncio.Event()

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
        if delta.prompt_text is not None:
            self._prompt_texts[delta.uid] = delta.prompt_text
        waited = not choice.accepted and choice.ending is None
        choice.add(delta)
        if waited and (choice.accepted or choice.ending is not None):
            self._num_waiting -= 1
            if self.request.echo:
                choice.begin_with(self._prompt_texts.get(delta.uid, ""))
        self._changed[choice.index] = None
        self._news.set()

    def fail(self, info: ErrorInfo) -> None:
        """It can't be answered; of several errors the first one is told."""
        self.failure = self.failure or info
        self._news.set()

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
            piece = self.choices[index].take()
            if piece is None:
                continue
            if piece.ending is not None and (piece.ending.error is not None or self.failure is not None):
                if piece.text:
                    yield Piece(index, piece.text)
                self._raise_failure()
            num_left -= piece.ending is not None
            if piece.text or piece.ending is not None:
                yield piece

    async def whole(self) -> Sequence[Piece]:
        """All choices, once they are there.

        Raises:
            RequestFailed: the request ended with an error.
        """
        pieces: dict[int, list[Piece]] = {choice.index: [] for choice in self.choices}
        async for piece in self.pieces():
            pieces[piece.index].append(piece)
        return [joined(parts) for parts in pieces.values()]

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise RequestFailed(self.failure)

    async def _next_news(self) -> None:
        self._news.clear()
        await self._news.wait()


def joined(parts: Sequence[Piece]) -> Piece:
    """The pieces of one choice as one."""
    return Piece(parts[0].index, "".join(part.text for part in parts), parts[-1].ending)
