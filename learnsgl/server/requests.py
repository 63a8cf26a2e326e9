"""Every request that has not ended, between the HTTP side and the workers.

The routes submit requests here and wait on what they get back; `serving.py` feeds it the replies of the workers, and
ends everything when a worker dies or the server stops. It makes sure that each choice of each request ends once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from learnsgl.core import FinishReason, ReqKey
from learnsgl.errors import RequestError
from learnsgl.message.channel import SendChannel
from learnsgl.message.types import (
    AbortMsg,
    CallReply,
    Delta,
    Ending,
    ErrorInfo,
    FlushCacheMsg,
    Message,
    TextCallMsg,
    TokenizeMsg,
    UserReply,
)
from learnsgl.server.http_errors import CLIENT_GONE_STATUS, DEFECT
from learnsgl.server.http_trace import HttpTrace
from learnsgl.server.live import LiveRequest
from learnsgl.server.live_choice import LiveChoice
from learnsgl.server.new_request import NewRequest
from learnsgl.tokenizer.tool_forms import CallForm

SHUTTING_DOWN = ErrorInfo("the server is shutting down; send the request again when it is back", 503, "shutting_down")


class RequestHub:
    """The requests that have not ended, by the ids of their prompts.

    Args:
        tokenizers: channels to the tokenizer workers; the messages of an id all go to the one that the id picks, so
            that an abort can't overtake its request.
        trace: where the HTTP side's events go.
        max_queue: answers that may wait for their first token; `None` sets no limit.
        timeout_s: seconds that a request may take; `None` sets no limit.
        call_form: how the model writes tool calls.
    """

    def __init__(
        self, tokenizers: Sequence[SendChannel], trace: HttpTrace, max_queue: int | None = None,
        timeout_s: float | None = None, call_form: CallForm = CallForm.GENERIC,
    ) -> None:  # fmt: skip
        self.trace = trace
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._call_form = call_form
        self._timers: dict[int, asyncio.TimerHandle] = {}
        """What ends each HTTP request that takes too long, by the id of its first prompt."""
        self._num_waiting = 0
        """Answers that wait for their first token."""
        self._tokenizers = list(tokenizers)
        self._live: dict[int, LiveRequest] = {}
        self._num_open: dict[int, int] = {}
        """Choices that have not ended, by the id of their prompt."""
        self._names: dict[str, int] = {}
        """Ids of prompts by what their clients call them."""
        self._last_uid = 0
        self._last_call = 0
        self._calls: dict[int, asyncio.Future[CallReply]] = {}
        self._unsettled: dict[ReqKey, None] = {}
        """Choices that `end_all` has ended, whose endings in the scheduler are still to come."""
        self._refusal: ErrorInfo | None = None
        self._idle = _set_event()
        self._settled = _set_event()

    @property
    def num_running(self) -> int:
        """Prompts whose answers have not all ended."""
        return len(self._live)

    @property
    def refusal(self) -> ErrorInfo | None:
        """Why new requests are refused; `None` while they are taken."""
        return self._refusal

    def submit(self, request: NewRequest, route: str) -> LiveRequest:
        """Give a request its ids and send it on its way.

        Raises:
            RequestError: the server takes no more requests, or too many wait.
        """
        self._check_open()
        self._check_queue(request)
        live = LiveRequest(self._last_uid + 1, request, self._call_form)
        self._take_names(live)
        self._last_uid += len(live.uids)
        for uid, prompt in zip(live.uids, request.prompts, strict=True):
            self._live[uid] = live
            self._num_open[uid] = prompt.sampling.n
            self._num_waiting += prompt.sampling.n
            first_uid = live.uid if len(live.uids) > 1 else None
            self.trace.received(uid, route, request.stream, request.body_bytes, prompt.sampling.n, first_uid)
        self._idle.clear()
        if self._timeout_s is not None:
            loop = asyncio.get_running_loop()
            self._timers[live.uid] = loop.call_later(self._timeout_s, self._time_out, live)
        try:
            for uid, prompt in zip(live.uids, request.prompts, strict=True):
                message = TokenizeMsg(
                    uid, prompt.sampling, prompt.text, prompt.input_ids, prompt.messages, request.echo, prompt.tools,
                    prompt.template,
                )  # fmt: skip
                self._send(message)
        except Exception:  # a defect, and one that must not leave a request that never ends
            self._end(live, DEFECT)
            raise
        return live

    def _time_out(self, live: LiveRequest) -> None:
        """End a request that has taken too long; its pages come back when the workers hear of it."""
        text = f"the request took longer than {self._timeout_s:g} s, which is this server's limit; ask for fewer tokens"
        if not live.client_gone:
            self._abort(live)
        self._end(live, ErrorInfo(text, 504, "request_timeout"))

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise RequestError(self._refusal.message, status=self._refusal.status, code=self._refusal.code)

    def _check_queue(self, request: NewRequest) -> None:
        """A request may also be larger than the queue, where nothing waits: it could never be answered otherwise."""
        if self._max_queue is None or not self._num_waiting:
            return
        num_new = sum(prompt.sampling.n for prompt in request.prompts)
        if self._num_waiting + num_new > self._max_queue:
            raise RequestError(
                f"{self._num_waiting} answers wait for their first token, and at most {self._max_queue} may; send the "
                "request again later",
                status=429,
                code="queue_full",
            )

    def _take_names(self, live: LiveRequest) -> None:
        names = live.names
        taken = [name for name in names if name in self._names]
        if taken:
            raise RequestError(f"rid {taken[0]!r} is the name of a request that still runs; take another", param="rid")
        self._names.update(names)

    async def call(self, message: TextCallMsg | FlushCacheMsg) -> CallReply:
        """Ask a worker for something beside requests; the call gets its number here.

        Raises:
            RequestError: the worker says why not, or the server ends.
        """
        self._check_open()
        self._last_call += 1
        message.call = self._last_call
        reply: asyncio.Future[CallReply] = asyncio.get_running_loop().create_future()
        self._calls[message.call] = reply
        try:
            self._tokenizers[message.call % len(self._tokenizers)].send([message])
            told = await reply
        finally:
            del self._calls[message.call]
        if told.error is not None:
            error = told.error
            raise RequestError(error.message, status=error.status, code=error.code, param=error.param)
        return told

    def abort_named(self, name: str) -> int:
        """Abort the prompt that its client calls so. Its answer ends, and says that it was aborted.

        Returns:
            How many prompts that were.
        """
        return self._abort_prompts([self._names[name]] if name in self._names else [])

    def abort_uid(self, uid: int) -> int:
        """Likewise, every prompt of the HTTP request to which the prompt with this id belongs."""
        live = self._live.get(uid)
        return 0 if live is None else self._abort_prompts([one for one in live.uids if one in self._live])

    def abort_all(self) -> int:
        """Likewise, everything that runs."""
        return self._abort_prompts(list(self._live))

    def _abort_prompts(self, uids: Sequence[int]) -> int:
        for uid in uids:
            self._send(AbortMsg(uid))
        return len(uids)

    def on_messages(self, messages: Sequence[Message]) -> None:
        """Take replies from the workers. Those of requests that have ended here already are of no more use."""
        now_ns = time.monotonic_ns()
        for message in messages:
            if isinstance(message, UserReply):
                self.trace.metrics.scheduler = message.stats or self.trace.metrics.scheduler
                for delta in message.deltas:
                    self._on_delta(delta, now_ns)
                for reply in message.replies:
                    if (waiting := self._calls.get(reply.call)) is not None and not waiting.done():
                        waiting.set_result(reply)

    def _on_delta(self, delta: Delta, now_ns: int) -> None:
        key = ReqKey(delta.uid, delta.choice)
        live = self._live.get(delta.uid)
        choice = None if live is None else live.choice(key)
        if live is not None and choice is not None and choice.ending is None:
            if delta.num_tokens:
                self.trace.metrics.on_tokens(now_ns, key, delta.num_tokens)
            self._deliver(live, choice, delta)
        elif delta.ending is not None:
            self._settle(key)

    def client_left(self, live: LiveRequest) -> None:
        """The client went away: stop the work for it, unless that is over. Its endings follow from the scheduler."""
        for uid in live.uids:
            self.trace.disconnected(uid)
        if live.unfinished and not live.client_gone:
            live.client_gone = True
            self._abort(live)

    def refuse_new(self, info: ErrorInfo) -> None:
        """From now on, answer new requests with this error."""
        self._refusal = info

    def end_all(self, info: ErrorInfo) -> None:
        """End every request and call with this error now, and tell the workers to stop working on them."""
        for call, waiting in self._calls.items():
            if not waiting.done():
                waiting.set_result(CallReply(call, error=info))
        for live in dict.fromkeys(self._live.values()):
            if not live.client_gone:
                self._abort(live)
            self._unsettled.update((choice.key, None) for choice in live.unfinished)
            self._settled.clear()
            self._end(live, info)

    async def wait_idle(self) -> None:
        """Wait until every request has ended."""
        await self._idle.wait()

    async def wait_settled(self) -> None:
        """After `end_all`: wait until the scheduler has let go of every request, too."""
        await self._settled.wait()

    def _settle(self, key: ReqKey) -> None:
        self._unsettled.pop(key, None)
        if not self._unsettled:
            self._settled.set()

    def _abort(self, live: LiveRequest) -> None:
        """Tell the workers to stop working on what has not ended of a request."""
        for uid in dict.fromkeys(choice.key.uid for choice in live.unfinished):
            self._send(AbortMsg(uid))

    def _end(self, live: LiveRequest, info: ErrorInfo) -> None:
        for choice in live.unfinished:
            ending = Ending(*choice.key, FinishReason.ERROR, error=info)
            self._deliver(live, choice, Delta(*choice.key, ending=ending))

    def _send(self, message: TokenizeMsg | AbortMsg) -> None:
        self._tokenizers[message.uid % len(self._tokenizers)].send([message])

    def _deliver(self, live: LiveRequest, choice: LiveChoice, delta: Delta) -> None:
        waited = choice.is_waiting
        live.add(choice, delta)
        self._num_waiting -= waited and not choice.is_waiting
        if delta.ending is None:
            return
        error = delta.ending.error
        if error is not None:
            live.request.name_params(error)
            is_first = live.failure is None and not live.client_gone
            live.fail(error)
            if is_first and error.status < 500 and len(live.uids) > 1:
                self._abort(live)  # one prompt that can't be answered, and the others aren't either
        self._close(live, delta.uid)
        self._record_ending(live, delta.ending)

    def _close(self, live: LiveRequest, uid: int) -> None:
        """One more choice of a prompt has ended."""
        self._num_open[uid] -= 1
        if not self._num_open[uid]:
            del self._num_open[uid], self._live[uid]
            for name in [name for name, named in live.names.items() if named == uid]:
                del self._names[name]
            if live.uid in self._timers and not any(other in self._live for other in live.uids):
                self._timers.pop(live.uid).cancel()
        if not self._live:
            self._idle.set()

    def _record_ending(self, live: LiveRequest, ending: Ending) -> None:
        error = ending.error or live.failure
        if live.client_gone:
            self.trace.ended(ending, FinishReason.ABORT, CLIENT_GONE_STATUS, "client_disconnected")
        elif error is not None:
            reason = FinishReason.ERROR if ending.error is not None else ending.reason
            self.trace.ended(ending, reason, error.status, error.code)
        else:
            self.trace.ended(ending, ending.reason, 200, None)


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
