"""The events of each route's stream, in the order in which its clients expect them.

`api_server.py` starts one for each streamed answer; `EventStream` of `sse.py` writes what it yields.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from learnsgl.server.answers import ChatAnswer, CompletionAnswer
from learnsgl.server.generate_answer import GenerateAnswer
from learnsgl.server.http_errors import error_body
from learnsgl.server.live import LiveRequest, RequestFailed
from learnsgl.server.live_choice import Piece, joined
from learnsgl.server.sse import STREAM_END, Chunk, sse


async def stream_chat_completions(live: LiveRequest, form: ChatAnswer) -> AsyncIterator[Chunk]:
    """The events of a streamed chat: who speaks, text and calls as they come, why it ended, the usage, the end mark."""
    for choice in live.choices:
        yield form.opening(choice.index)
    try:
        async for piece in live.pieces():
            if piece.text or piece.logprobs:
                yield form.content(piece)
            for call in piece.calls:
                yield form.call(piece.index, call)
            if piece.ending is not None:
                yield form.closing(piece.index, piece.ending)
    except RequestFailed as failure:
        yield Chunk(sse(error_body(failure.info)))
        return  # without the end mark, which would say that the answer is whole
    if usage := form.usage():
        yield usage
    yield STREAM_END


async def stream_completions(live: LiveRequest, form: CompletionAnswer) -> AsyncIterator[Chunk]:
    """The events of a streamed completion: the text as it comes, why it ended, the usage, and the end mark."""
    try:
        async for piece in live.pieces():
            if piece.text or piece.logprobs:
                yield form.content(piece)
            if piece.ending is not None:
                yield form.closing(piece.index, piece.ending)
    except RequestFailed as failure:
        yield Chunk(sse(error_body(failure.info)))
        return
    if usage := form.usage():
        yield usage
    yield STREAM_END


async def stream_generate(live: LiveRequest, form: GenerateAnswer) -> AsyncIterator[Chunk]:
    """The events of `/generate`: all of the text so far, each time there is more of it."""
    so_far: dict[int, Piece] = {}
    try:
        async for piece in live.pieces():
            before = so_far.get(piece.index)
            so_far[piece.index] = piece if before is None else joined([before, piece])
            yield form.so_far(so_far[piece.index])
    except RequestFailed as failure:
        yield Chunk(sse(error_body(failure.info)))
        return
    yield STREAM_END
