"""A request's way through the server as parts with causes: to the scheduler, in its queue, on the device, and back.

`ledger.py` cuts from it what lies between two deliveries. The way in is the same for all tokens; the way out is walked
back from the moment at which a token left, through the messages that carried it, to the end of its step.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import Enum

from learnsgl.replay.history_data import DeviceStep, Journey, Letter, ReqHistory
from learnsgl.replay.ledger_causes import Cause, queue_cause
from learnsgl.replay.ledger_device import Activity
from learnsgl.replay.ledger_spans import Chain, Part
from learnsgl.trace.checks.base import Place


class Detail(Enum):
    """How much of a request's way the recording holds."""

    MESSAGES = "every process and message"
    ONE_PROCESS = "every part, in one process that sends no messages (the offline API, or a scheduler alone)"
    STEPS = "requests and steps"


def detail_of(activity: Activity) -> Detail:
    """How much a recording holds."""
    history = activity.history
    if history.letters:
        return Detail.MESSAGES
    is_full = any(step.submit_ns is not None for step in history.steps) or any(
        journey.tokenized is not None for journey in history.journeys.values()
    )
    return Detail.ONE_PROCESS if is_full else Detail.STEPS


class Life:
    """One request's way.

    Attributes:
        journey, req: the request.

    Args:
        activity: what the device and the processes did.
        journey: the request.
        req: the choice of it.
        detail: how much the recording holds.
    """

    def __init__(self, activity: Activity, journey: Journey, req: ReqHistory, detail: Detail) -> None:
        self.journey = journey
        self.req = req
        self._activity = activity
        self._detail = detail
        self._sent: dict[str, list[Letter]] = {}
        for letter in journey.letters:
            for kind in letter.names:
                self._sent.setdefault(kind, []).append(letter)

    # ------------------------------------------------------------ the way in

    def way_in(self, start_ns: int, until_ns: int) -> list[Part]:
        """From its first moment until it ended in the scheduler, or at most until `until_ns`."""
        chain = Chain(start_ns)
        if self._detail is Detail.MESSAGES:
            self._to_scheduler(chain, until_ns)
        else:
            self._to_scheduler_without_messages(chain)
        self._through_queue(chain, until_ns)
        parts = chain.parts
        if self.req.admitted is not None:
            ended = [place.ns for place in (self.req.finished,) if place is not None]
            parts += self._activity.parts(self.req.key, chain.end_ns, min([*ended, until_ns]))
        return parts

    def _to_scheduler(self, chain: Chain, until_ns: int) -> None:
        user, arrival = self.first("UserMsg"), self.req.queued or self.req.refused
        self._to_tokens(chain, until_ns, has_left=user is not None or arrival is not None)
        if user is None:
            return
        busy = self._activity.busy(self.tokenizer)
        chain.to(user.sent.ns, Cause.TOKENIZE, busy=busy, wait=Cause.TOKENIZER_WAIT)
        loop = self._activity.busy(self._activity.history.scheduler)
        if user.received is None and arrival is None:  # nobody has taken it from the socket
            chain.to(until_ns, Cause.SCHEDULER_MESSAGE, busy=loop, wait=Cause.SCHEDULER_BUSY)
            return
        chain.to(_ns(user.received), Cause.SCHEDULER_MESSAGE, busy=loop, wait=Cause.SCHEDULER_BUSY)
        if arrival is not None:
            chain.to(arrival.ns, Cause.SCHEDULER_BUSY)

    def _to_tokens(self, chain: Chain, until_ns: int, *, has_left: bool) -> None:
        """Up to where its tokens are there; `has_left`: they were sent on, whether that is recorded or not."""
        tokenize, done = self.first("TokenizeMsg"), self.journey.tokenized
        if tokenize is None and done is None:
            if has_left:
                chain.to(None, Cause.UNEXPLAINED)
            return
        chain.to(None if tokenize is None else tokenize.sent.ns, Cause.HTTP)
        received = None if tokenize is None else tokenize.received
        if received is None and done is None and not has_left:  # nobody has taken it from the socket
            chain.to(until_ns, Cause.TOKENIZER_MESSAGE)
            return
        busy = self._activity.busy(self.tokenizer)
        chain.to(_ns(received), Cause.TOKENIZER_MESSAGE, busy=busy, wait=Cause.TOKENIZER_WAIT)
        if self._failed_tokenizing is not None:  # when it began isn't recorded
            chain.to(self._failed_tokenizing.ns, Cause.TOKENIZE, busy=busy, wait=Cause.TOKENIZER_WAIT)
        elif self.journey.tokenize_ns is not None:
            chain.to(self.journey.tokenize_ns[0], Cause.TOKENIZER_WAIT)
            chain.to(self.journey.tokenize_ns[1], Cause.TOKENIZE)
        elif has_left:
            chain.to(None, Cause.UNEXPLAINED)

    def _to_scheduler_without_messages(self, chain: Chain) -> None:
        arrival = self.req.queued or self.req.refused
        if self._detail is Detail.STEPS:
            if arrival is not None:
                chain.to(arrival.ns, Cause.WAY_IN)
            return
        if self.journey.tokenize_ns is not None:
            chain.to(self.journey.tokenize_ns[0], Cause.TOKENIZER_WAIT)
            chain.to(self.journey.tokenize_ns[1], Cause.TOKENIZE)
        if arrival is not None:
            chain.to(arrival.ns, Cause.SCHEDULER_BUSY)

    def _through_queue(self, chain: Chain, until_ns: int) -> None:
        req = self.req
        if req.queued is None:
            if req.admitted is not None:
                chain.to(None, Cause.UNEXPLAINED)
                chain.to(req.admitted.ns, Cause.UNEXPLAINED)
            return
        leaving = req.admitted or req.finished
        left_ns = until_ns if leaving is None else leaving.ns
        step = self._activity.steps.get(req.admitted_step or 0)
        looked_ns = left_ns if step is None or step.schedule_ns is None else max(step.schedule_ns[0], chain.end_ns)
        chain.to(min(self._activity.scheduled_after(chain.end_ns), looked_ns), Cause.QUEUE_TURN)
        cause = Cause.QUEUE_BEHIND
        for block in req.blocks:
            chain.to(min(block.place.ns, looked_ns), cause)
            cause = queue_cause(block.reason)
        chain.to(looked_ns, cause)
        chain.to(left_ns, Cause.SCHEDULE)

    # ------------------------------------------------------------ the way out

    def token_out(self, step: DeviceStep, chunk_ns: int | None) -> list[Part]:
        """A token's way from the end of its step to its chunk, or (without one) until it is committed."""
        span = step.device_ns
        if span is None or step.commit_ns is None:
            return []
        chain = Chain(span[1])
        chain.to(step.commit_ns[0], Cause.COLLECT)
        chain.to(step.commit_ns[1], Cause.COMMIT)
        if chunk_ns is not None:
            self._to_client(chain, step.commit_ns[1], step, chunk_ns)
        return chain.parts

    def ending_out(self, end_ns: int) -> list[Part]:
        """The way of its ending to its client."""
        ended = self.req.finished or self.req.refused or self._failed_tokenizing
        if ended is None:
            return []
        tokens = self.req.kept_tokens
        step = self._activity.steps.get(tokens[-1]) if tokens else None
        is_with_token = step is not None and step.commit_ns is not None and self._ends_in(step)
        chain = Chain(ended.ns)
        if is_with_token and step is not None and step.commit_ns is not None:
            chain = Chain(step.commit_ns[1])
            chain.to(ended.ns, Cause.COMMIT)
        if ended is self._failed_tokenizing:
            reply = self.after("UserReply", ended.ns)
            self._reply(chain, reply, end_ns)
        else:
            self._to_client(chain, ended.ns, step if is_with_token else None, end_ns)
        return chain.parts

    def reply_of(self, step: DeviceStep) -> Letter | None:
        """The message to the API server with the text of a step."""
        return None if step.text_ns is None else self.after("UserReply", step.text_ns[1])

    def delivered_ns(self, step: DeviceStep) -> int | None:
        """When the first chunk left that can hold the token of a step; `None` where none did, or none is recorded."""
        if self._detail is Detail.MESSAGES:
            reply = self.reply_of(step)
            ready_ns = None if reply is None else _ns(reply.received)
        else:
            ready_ns = None if step.text_ns is None else step.text_ns[1]
        if ready_ns is None:
            return None
        place = bisect_left(self.req.chunks_ns, ready_ns)
        return self.req.chunks_ns[place] if place < len(self.req.chunks_ns) else None

    def _ends_in(self, step: DeviceStep) -> bool:
        """Whether the scheduler ended the request when it took over this step's token."""
        if self.req.finished is None or step.commit_ns is None:
            return False
        letter = self.after("DetokenizeMsg", step.commit_ns[1])
        return letter is None or self.req.finished.ns <= letter.sent.ns

    def _to_client(self, chain: Chain, after_ns: int, step: DeviceStep | None, end_ns: int) -> None:
        """From the scheduler's reply on; `step` is the one whose tokens it holds."""
        if self._detail is Detail.STEPS:
            chain.to(end_ns, Cause.WAY_OUT)
            return
        text_ns = None if step is None else step.text_ns
        if self._detail is Detail.ONE_PROCESS:
            if text_ns is not None:
                chain.to(text_ns[0], Cause.COMMIT)
                chain.to(text_ns[1], Cause.DETOKENIZE)
            chain.to(end_ns, Cause.SSE)
            return
        letter = self.after("DetokenizeMsg", after_ns)
        if letter is None:
            return
        chain.to(letter.sent.ns, Cause.COMMIT)
        if letter.received is None:
            return
        busy = self._activity.busy(letter.received.process)
        chain.to(letter.received.ns, Cause.DETOKENIZER_MESSAGE, busy=busy, wait=Cause.DETOKENIZER_WAIT)
        if text_ns is not None:
            chain.to(text_ns[0], Cause.DETOKENIZER_WAIT)
            chain.to(text_ns[1], Cause.DETOKENIZE)
        self._reply(chain, self.after("UserReply", chain.end_ns), end_ns)

    def _reply(self, chain: Chain, reply: Letter | None, end_ns: int) -> None:
        if reply is None:
            return
        busy = self._activity.busy(reply.sent.process)
        is_tokenizer = reply.sent.process == self.tokenizer
        cause, wait = Cause.DETOKENIZE, Cause.DETOKENIZER_WAIT
        if is_tokenizer and self.req.queued is None:
            cause, wait = Cause.TOKENIZE, Cause.TOKENIZER_WAIT
        chain.to(reply.sent.ns, cause, busy=busy, wait=wait)
        if reply.received is not None:
            chain.to(reply.received.ns, Cause.API_MESSAGE)
            chain.to(end_ns, Cause.SSE)

    # ------------------------------------------------------------ its messages

    @property
    def tokenizer(self) -> str | None:
        """The process that made tokens of its prompt, or was asked to."""
        if self.journey.tokenized is not None:
            return self.journey.tokenized.process
        letter = self.first("TokenizeMsg")
        return None if letter is None else letter.channel

    @property
    def _failed_tokenizing(self) -> Place | None:
        return self.journey.tokenized if self.journey.tokenize_ns is None else None

    def first(self, kind: str) -> Letter | None:
        """The first message of a kind about the request."""
        return next(iter(self._sent.get(kind, ())), None)

    def after(self, kind: str, ns: int) -> Letter | None:
        """The first message of a kind about the request that was sent at a moment or later."""
        letters = self._sent.get(kind, [])
        place = bisect_left(letters, ns, key=lambda letter: letter.sent.ns)
        return letters[place] if place < len(letters) else None


def _ns(place: Place | None) -> int | None:
    return None if place is None else place.ns
