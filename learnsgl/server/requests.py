"""Every request that has not ended, between the HTTP side and the workers.

The routes of `api_server.py` submit requests here and wait on what they get back; `serving.py` feeds it the replies
of the workers, and ends everything when a worker dies or the server stops. It makes sure that each request ends once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from learnsgl.core import FinishReason
from learnsgl.errors import RequestError
from learnsgl.message.channel import SendChannel
from learnsgl.message.types import AbortMsg, Delta, Ending, ErrorInfo, Message, TokenizeMsg, UserReply
from learnsgl.server.http_errors import CLIENT_GONE_STATUS, DEFECT
from learnsgl.server.http_trace import HttpTrace
from learnsgl.server.parse import NewRequest

SHUTTING_DOWN = ErrorInfo("the server is shutting down; send the request again when it is back", 503, "shutting_down")


class RequestFailed(Exception):
    """A request ended with an error.

    Attributes:
        info: what the client is told.
    """

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


class LiveRequest:
    """One request, as the code that answers it sees it.

    What the workers give is gathered here, and taken by the writer of the answer when its client is ready for more:
    a slow reader gets larger pieces, and nobody waits for it.

    Attributes:
        uid: the request's id.
        request: what the client asked for.
        connection_closed: whether the connection to the client is closed.
        client_gone: whether the client went away before its ending, which is still to come.
    """

    def __init__(self, uid: int, request: NewRequest) -> None:
        self.uid = uid
        self.request = request
        self.connection_closed = False
        self.client_gone = False
        self._texts: list[str] = []
        self._accepted = False
        self._ending: Ending | None = None
        self._news = asyncio.Event()

    def add(self, delta: Delta) -> None:
        """Take what a worker gave."""
        self._accepted = self._accepted or delta.accepted
        if delta.text:
            self._texts.append(delta.text)
        if delta.ending is not None:
            self._ending = delta.ending
        self._news.set()

    async def wait_accepted(self) -> None:
        """Wait until the scheduler has queued the request.

        Raises:
            RequestFailed: it was refused.
        """
        while not self._accepted and self._ending is None:
            await self._next_news()
        if not self._accepted and self._ending is not None and self._ending.error is not None:
            raise RequestFailed(self._ending.error)

    async def deltas(self) -> AsyncIterator[tuple[str, Ending | None]]:
        """New text as it comes, then the ending.

        Raises:
            RequestFailed: the request ended with an error; the text before it has been given.
        """
        ending: Ending | None = None
        while ending is None:
            while not self._texts and self._ending is None:
                await self._next_news()
            text, ending = "".join(self._texts), self._ending
            self._texts.clear()
            if ending is not None and ending.error is not None:
                if text:
                    yield text, None
                raise RequestFailed(ending.error)
            yield text, ending

    async def whole(self) -> tuple[str, Ending]:
        """The whole answer, once it is there.

        Raises:
            RequestFailed: the request ended with an error.
        """
        while self._ending is None:
            await self._next_news()
        if self._ending.error is not None:
            raise RequestFailed(self._ending.error)
        return "".join(self._texts), self._ending

    async def _next_news(self) -> None:
        self._news.clear()
        await self._news.wait()


class RequestHub:
    """The requests that have not ended, by their ids.

    Args:
        tokenizers: channels to the tokenizer workers; a request's messages all go to the one that its id picks, so
            that an abort can't overtake its request.
        trace: where the HTTP side's events go.
    """

    def __init__(self, tokenizers: Sequence[SendChannel], trace: HttpTrace) -> None:
        self.trace = trace
        self._tokenizers = list(tokenizers)
        self._live: dict[int, LiveRequest] = {}
        self._last_uid = 0
        self._unsettled: dict[int, None] = {}
        """Requests that `end_all` has ended, whose endings in the scheduler are still to come."""
        self._refusal: ErrorInfo | None = None
        self._idle = _set_event()
        self._settled = _set_event()

    @property
    def num_running(self) -> int:
        """Requests that have not ended."""
        return len(self._live)

    @property
    def refusal(self) -> ErrorInfo | None:
        """Why new requests are refused; `None` while they are taken."""
        return self._refusal

    def submit(self, request: NewRequest, route: str) -> LiveRequest:
        """Give a request its id and send it on its way.

        Raises:
            RequestError: the server takes no more requests.
        """
        if self._refusal is not None:
            raise RequestError(self._refusal.message, status=self._refusal.status, code=self._refusal.code)
        self._last_uid += 1
        live = LiveRequest(self._last_uid, request)
        self._live[live.uid] = live
        self._idle.clear()
        self.trace.received(live.uid, route, request.stream, request.body_bytes)
        try:
            self._send(TokenizeMsg(live.uid, request.sampling, request.text, request.input_ids, request.messages))
        except Exception:  # a defect, and one that must not leave a request that never ends
            self._deliver(live, Delta(live.uid, ending=Ending(live.uid, 0, FinishReason.ERROR, error=DEFECT)))
            raise
        return live

    def on_messages(self, messages: Sequence[Message]) -> None:
        """Take replies from the workers. Those of requests that have ended here already are of no more use."""
        for message in messages:
            if isinstance(message, UserReply):
                for delta in message.deltas:
                    live = self._live.get(delta.uid)
                    if live is not None:
                        self._deliver(live, delta)
                    elif delta.ending is not None:
                        self._settle(delta.uid)

    def client_left(self, live: LiveRequest) -> None:
        """The client went away: stop the work for it, unless that is over. Its ending follows from the scheduler."""
        self.trace.disconnected(live.uid)
        if live.uid in self._live and not live.client_gone:
            live.client_gone = True
            self._send(AbortMsg(live.uid))

    def refuse_new(self, info: ErrorInfo) -> None:
        """From now on, answer new requests with this error."""
        self._refusal = info

    def end_all(self, info: ErrorInfo) -> None:
        """End every request with this error now, and tell the workers to stop working on them."""
        for live in list(self._live.values()):
            if not live.client_gone:
                self._send(AbortMsg(live.uid))
            self._unsettled[live.uid] = None
            self._settled.clear()
            self._deliver(live, Delta(live.uid, ending=Ending(live.uid, 0, FinishReason.ERROR, error=info)))

    async def wait_idle(self) -> None:
        """Wait until every request has ended."""
        await self._idle.wait()

    async def wait_settled(self) -> None:
        """After `end_all`: wait until the scheduler has let go of every request, too."""
        await self._settled.wait()

    def _settle(self, uid: int) -> None:
        self._unsettled.pop(uid, None)
        if not self._unsettled:
            self._settled.set()

    def _send(self, message: TokenizeMsg | AbortMsg) -> None:
        self._tokenizers[message.uid % len(self._tokenizers)].send([message])

    def _deliver(self, live: LiveRequest, delta: Delta) -> None:
        ending = delta.ending
        if ending is not None:
            if ending.error is not None and ending.error.param in ("messages", "prompt"):
                ending.error.param = live.request.prompt_param
            del self._live[live.uid]
            if not self._live:
                self._idle.set()
            self._record_ending(live, ending)
        live.add(delta)

    def _record_ending(self, live: LiveRequest, ending: Ending) -> None:
        if live.client_gone:
            self.trace.ended(ending, FinishReason.ABORT, CLIENT_GONE_STATUS, "client_disconnected")
        elif ending.error is not None:
            self.trace.ended(ending, FinishReason.ERROR, ending.error.status, ending.error.code)
        else:
            self.trace.ended(ending, ending.reason, 200, None)


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
