"""What happens to a request, in sentences: one for each cause of the ledger, with the events that it comes from.

`why.py` asks for the sentences of one part of a ledger. A sentence never says more than its events do.
"""

from __future__ import annotations

from learnsgl.core import ReqKey
from learnsgl.replay.history_data import DeviceStep, Letter
from learnsgl.replay.ledger import Ledgers
from learnsgl.replay.ledger_causes import QUEUE_CAUSES, Cause
from learnsgl.replay.ledger_life import Life
from learnsgl.replay.ledger_spans import Part
from learnsgl.replay.why_queue import Queue
from learnsgl.replay.why_text import (
    MAX_NAMED,
    Sentence,
    ends,
    listed,
    name_of,
    places_of,
    requests,
    said,
    some,
    tokens_of,
)
from learnsgl.replay.why_waiting import queued
from learnsgl.trace.checks.base import Place


class Words:
    """Puts parts of one request's ledger into words.

    Args:
        ledgers: the recording.
        queue: who waited when.
        life: the request.
        origin_ns: the moment from which seconds count.
    """

    def __init__(self, ledgers: Ledgers, queue: Queue, life: Life, origin_ns: int) -> None:
        self._activity = ledgers.activity
        self._history = ledgers.history
        self._queue = queue
        self._life = life
        self._journey, self._req = life.journey, life.req
        self._origin_ns = origin_ns

    def of(self, part: Part, ns: int, token_step: int | None) -> list[Sentence]:
        """What a part is, at a moment in it.

        Args:
            part: the part.
            ns: the moment.
            token_step: the step whose token is on its way at the end of the part's interval; `None` for the ending.
        """
        cause = part.cause
        if cause in (Cause.HTTP, Cause.WAY_IN, Cause.TOKENIZER_MESSAGE, Cause.TOKENIZER_WAIT, Cause.TOKENIZE):
            return [self._before_scheduler(cause, part, ns)]
        if cause in (Cause.SCHEDULER_MESSAGE, Cause.SCHEDULER_BUSY):
            return [self._to_scheduler(cause, ns)]
        if cause in (Cause.QUEUE_TURN, Cause.QUEUE_BEHIND, *QUEUE_CAUSES.values()):
            return queued(self._queue, self._req, ns)
        if cause in (Cause.SCHEDULE, Cause.LAUNCH):
            return [self._idle(cause, ns)]
        if cause in _ON_DEVICE:
            return [self._device(part)]
        if cause is Cause.PROCESS_LOST:
            names = [f"{name} died" for name in self._history.lost]
            return [said(" and ".join(names) + ", so nothing could come", tuple(self._history.lost.values()))]
        if cause is Cause.UNEXPLAINED:
            return [said("no event says what it waited for")]
        sentences = [self._way_out(cause, token_step, ns)]
        step = self._activity.step_at(ns)
        if step is not None and self._activity.run_of(self._req.key, step) is not None and token_step != step.number:
            sentences.append(said(f"meanwhile it {self._runs_in(step)}", places_of(step, "schedule", "forward")))
        return sentences

    # ------------------------------------------------------------ up to the scheduler

    def _before_scheduler(self, cause: Cause, part: Part, ns: int) -> Sentence:
        journey = self._journey
        received, tokenized = some(journey.received), some(journey.tokenized)
        letter = self._life.first("TokenizeMsg")
        if cause is Cause.HTTP:
            sent = "" if letter is None else f"; it is sent to {letter.channel} at {self.time(letter.sent.ns)}"
            return said(f"is read by the API server ({journey.route or 'route unknown'}){sent}",
                            received + ends(letter))  # fmt: skip
        if cause is Cause.TOKENIZER_MESSAGE:
            return self._in_flight(letter)
        if cause is Cause.TOKENIZE:
            length = f": {self._req.prompt_len:,} tokens" if self._req.prompt_len else ""
            what = "is being tokenized" if journey.tokenize_ns is not None else "can't be tokenized, which is found"
            return said(f"{what} by {self._life.tokenizer}{length}", tokenized)
        if cause is Cause.TOKENIZER_WAIT:
            others = self._tokenized_between(part.start_ns, part.end_ns)
            doing = f", which tokenizes {requests(list(others))}" if others else ""
            return said(f"waits for {self._life.tokenizer}{doing}", (*others.values(), *tokenized)[:MAX_NAMED])
        queued = some(self._req.queued)
        return said("is on its way to the scheduler; this level of recording doesn't say where", received + queued)

    def _tokenized_between(self, start_ns: int, end_ns: int) -> dict[ReqKey, Place]:
        found = {}
        for journey in self._history.journeys.values():
            span, place = journey.tokenize_ns, journey.tokenized
            if span is None or place is None or journey is self._journey or place.process != self._life.tokenizer:
                continue
            if span[0] < end_ns and span[1] > start_ns:
                found[ReqKey(journey.uid)] = place
        return found

    def _to_scheduler(self, cause: Cause, ns: int) -> Sentence:
        letter = self._life.first("UserMsg")
        if cause is Cause.SCHEDULER_MESSAGE:
            return self._in_flight(letter)
        doing, place = self._queue.scheduler_at(ns)
        places = ends(letter) + some(self._req.queued or self._req.refused) + some(place)
        where = f"in {self._history.scheduler}'s socket" if letter is not None else "with the scheduler's messages"
        return said(f"lies {where} until the loop comes round; the loop {doing}", places)

    # ------------------------------------------------------------ on the device

    def _idle(self, cause: Cause, ns: int) -> Sentence:
        following = self._activity.next_step(ns)
        number = "the next step" if following is None else f"step {following.number}"
        places = () if following is None else places_of(following, "schedule", "submit", "forward")
        if cause is Cause.LAUNCH and following is not None and following.device_ns is not None:
            begins = self.time(following.device_ns[0])
            return said(f"{number} is submitted, and the device begins with it at {begins}", places)
        doing, place = self._queue.scheduler_at(ns)
        admitted = self._req.admitted
        if admitted is not None and self._req.admitted_step is not None and ns < admitted.ns:
            return said(f"is being admitted, in step {self._req.admitted_step}", some(admitted) + some(place))
        return said(f"the device is idle until {number} is submitted; the scheduler {doing}", places + some(place))

    def _device(self, part: Part) -> Sentence:
        step = self._activity.step_at(part.start_ns) or self._activity.next_step(part.start_ns)
        if step is None:
            return said("the device works")
        places = places_of(step, "schedule", "forward")
        if part.cause is Cause.MASKS:
            masks = places_of(step, "forward", "masks")
            return said(f"step {step.number} has its logits, and waits until the scheduler has its masks", masks)
        if part.cause is Cause.SAMPLE:
            return said(f"its token is sampled in step {step.number}", places)
        if part.cause is Cause.OTHERS_PREFILL:
            chunks = [self._chunk(step, place) for place, run in enumerate(step.runs) if run.is_prefill]
            return said(f"waits for its turn while step {step.number} prefills {listed(chunks)}", places)
        if part.cause is Cause.OTHERS_DECODE:
            others = requests(list(step.keys))
            return said(f"waits for its turn while step {step.number} decodes for {others}", places)
        return said(self._runs_in(step), places)

    def _chunk(self, step: DeviceStep, place: int) -> str:
        key, run, start = step.keys[place], step.runs[place], step.starts[place]
        journey = self._history.journeys.get(key.uid)
        req = None if journey is None else journey.choices.get(key.choice)
        return f"{name_of(key)}'s prompt ({tokens_of(start, run.num_tokens, req)})"

    def _runs_in(self, step: DeviceStep) -> str:
        place = self._activity.run_of(self._req.key, step)
        if place is None:
            return f"waits while step {step.number} runs"
        run, start = step.runs[place], step.starts[place]
        if run.is_prefill:
            what = f"prefill of {tokens_of(start, run.num_tokens, self._req)}"
        else:
            number = start - (self._req.prompt_len or 0) + 2  # its input is the token before the one that it gives
            what = f"decodes its token {number:,}" if self._req.prompt_len is not None else "decodes"
        others = [key for key in step.keys if key != self._req.key]
        beside = f", beside {requests(others)}" if others else ""
        return f"runs in step {step.number} ({what}){beside}"

    # ------------------------------------------------------------ on its way back

    def _way_out(self, cause: Cause, token_step: int | None, ns: int) -> Sentence:
        step = None if token_step is None else self._queue.step(token_step)
        what = "its ending" if step is None else f"its token of step {step.number}"
        finished = some(self._req.finished or self._req.refused)
        committed_ns, text_ns = _ends_ns(step, finished[0].ns if finished else ns)
        letter = self._life.after("DetokenizeMsg", committed_ns)
        if cause is Cause.COLLECT and step is not None:
            doing, place = self._queue.scheduler_at(ns)
            text = f"step {step.number} is done on the device, and the scheduler hasn't collected it: it {doing}"
            return said(text, places_of(step, "forward", "wait") + some(place))
        if cause is Cause.COMMIT:
            places = places_of(step, "commit") if step is not None else finished
            verb = f"takes over {what}" if step is not None else "ends it"
            return said(f"{self._history.scheduler} {verb}, and replies", places + ends(letter))
        if cause is Cause.DETOKENIZER_MESSAGE:
            return self._in_flight(letter, what)
        text_places = places_of(step, "text") if step is not None else ()
        if cause is Cause.DETOKENIZER_WAIT:
            return said(f"{what} waits for the detokenizer", ends(letter) + text_places)
        if cause is Cause.DETOKENIZE:
            return said(f"the detokenizer turns {what} into text, and sends it", text_places or ends(letter))
        sent_ns = letter.sent.ns if letter is not None and text_ns is None else committed_ns
        reply = self._life.after("UserReply", sent_ns if text_ns is None else text_ns)
        if cause is Cause.API_MESSAGE:
            return self._in_flight(reply, what)
        if cause is Cause.WAY_OUT:
            return said(f"{what} is on its way to the client; this level of recording doesn't say where", finished)
        return said(f"the API server writes {what} to the client's socket",
                        ends(reply) + some(self._journey.answered))  # fmt: skip

    def _in_flight(self, letter: Letter | None, what: str = "") -> Sentence:
        if letter is None:
            return said("is in flight between two processes")
        subject = f"{what} " if what else ""
        if letter.received is None:
            text = f"{letter.sent.process} to channel {letter.channel}, and was not received in this recording"
            return said(f"{subject}is in flight from {text}", (letter.sent,))
        times = f"sent at {self.time(letter.sent.ns)}, taken at {self.time(letter.received.ns)}"
        route = f"{letter.sent.process} to {letter.received.process}"
        return said(f"{subject}is in flight from {route} ({times})", (letter.sent, letter.received))

    def time(self, ns: int) -> str:
        """A moment in seconds since the trace's first event."""
        return f"{(ns - self._origin_ns) / 1e9:.6f}s"


_ON_DEVICE = (
    Cause.OTHERS_PREFILL, Cause.OTHERS_DECODE, Cause.PREFILL, Cause.PREFILL_SHARED, Cause.DECODE,
    Cause.DECODE_BESIDE_PREFILL, Cause.MASKS, Cause.SAMPLE,
)  # fmt: skip


def _ends_ns(step: DeviceStep | None, finished_ns: int) -> tuple[int, int | None]:
    """When a step's tokens were taken over, and when they were text; for an ending without a step, when that was."""
    if step is None:
        return finished_ns, None
    return step.commit_ns[1] if step.commit_ns is not None else finished_ns, step.text_ns and step.text_ns[1]
