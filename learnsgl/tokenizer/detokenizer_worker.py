"""The detokenizer's job: tokens become text, step by step, and stop strings are found where the text is.

`worker.py` runs it, in a process of its own or beside the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from learnsgl.core import FinishReason, ReqKey
from learnsgl.message.channel import Sender
from learnsgl.message.types import (
    AbortMsg,
    Accepted,
    Delta,
    DetokenizeMsg,
    Ending,
    LogprobsMsg,
    Message,
    UserReply,
)
from learnsgl.tokenizer.detokenize import IncrementalDetokenizer
from learnsgl.tokenizer.logprobs import LivePrompt, LogprobTable
from learnsgl.tokenizer.tokenize import Tokenizer
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder


@dataclass(slots=True)
class _LiveText:
    """The text of a request that has not ended."""

    detokenizer: IncrementalDetokenizer
    num_top: int | None = None
    """How many of the likeliest tokens are wanted with each log-probability; `None`: no log-probabilities."""
    num_tokens: int = 0
    stopped_after: int | None = None
    """Tokens up to and including the one that completed a stop string, once one did."""


class DetokenizerWorker:
    """Turns tokens into text, and ends the text at stop strings.

    A stop string only ends the text here: the scheduler is told, and the ending that it sends back is the one that
    the client gets. Tokens that the scheduler generated in the meantime are ignored.

    Args:
        tokenizer: the model's tokenizer.
        recorder: where `detok.*` events go.
        to_api: takes the text.
        to_scheduler: takes the news of a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, recorder: Recorder, to_api: Sender, to_scheduler: Sender) -> None:
        self._tokenizer = tokenizer
        self._recorder = recorder
        self._to_api = to_api
        self._to_scheduler = to_scheduler
        self._live: dict[ReqKey, _LiveText] = {}
        self._prompts: dict[ReqKey, LivePrompt] = {}
        self._replies: list[Message] = []
        self._stops: list[Message] = []

    @property
    def num_live(self) -> int:
        """Requests whose text has not ended."""
        return len(self._live)

    def process_one_msg(self, message: DetokenizeMsg) -> None:
        """Turn the tokens of one step into text: one reply for all its requests."""
        start_ns = self._recorder.now()
        deltas: dict[ReqKey, Delta] = {}
        for accepted in message.accepted:
            self._begin(accepted, deltas)
        for part in message.prompt_logprobs:
            self._add_prompt(ReqKey(part.uid, part.choice), self._table(part.values), deltas)
        stopped = self._decode(message, deltas)
        for ending in message.endings:
            self._end(ending, deltas)
        # the scheduler needn't be told of a stop string where it has ended the request by itself
        self._stops += [
            AbortMsg(key.uid, key.choice, FinishReason.STOP, self._live[key].stopped_after)
            for key in stopped
            if key in self._live
        ]
        if deltas or message.replies or message.stats is not None:
            self._replies.append(UserReply(list(deltas.values()), message.replies, message.stats))
        self._record(message, deltas, start_ns)

    def flush(self) -> None:
        """Send the text and the stops: one message each."""
        if self._stops:
            self._to_scheduler.send(self._stops)
        if self._replies:
            self._to_api.send(self._replies)
        self._stops, self._replies = [], []

    def _begin(self, accepted: Accepted, deltas: dict[ReqKey, Delta]) -> None:
        sampling = accepted.sampling
        for choice in range(sampling.n):
            key = ReqKey(accepted.uid, choice)
            text = IncrementalDetokenizer(self._tokenizer, sampling.stop, sampling.min_tokens)
            self._live[key] = _LiveText(text, sampling.logprobs)
            deltas[key] = Delta(*key, accepted=True)
        if not accepted.prompt_ids:
            return
        key = ReqKey(accepted.uid)
        ids = np.frombuffer(accepted.prompt_ids, "<i4").tolist()
        deltas[key].prompt_text = self._text_of(ids)
        if sampling.prompt_logprobs is not None:
            fresh = IncrementalDetokenizer(self._tokenizer)
            bytes_of = self._tokenizer.token_bytes
            self._prompts[key] = LivePrompt.begin(ids, sampling.prompt_logprobs, fresh, bytes_of)
            self._give_prompt(key, deltas)

    def _text_of(self, ids: Sequence[int]) -> str:
        """The text of a whole prompt; special tokens give none."""
        detokenizer = IncrementalDetokenizer(self._tokenizer)
        return "".join([*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()])

    def _table(self, values: LogprobsMsg) -> LogprobTable:
        return LogprobTable(values, self._tokenizer.token_bytes)

    def _add_prompt(self, key: ReqKey, table: LogprobTable, deltas: dict[ReqKey, Delta]) -> None:
        """The next run of a prompt's log-probabilities has come."""
        if key in self._prompts:
            self._prompts[key].add(table)
            self._give_prompt(key, deltas)

    def _give_prompt(self, key: ReqKey, deltas: dict[ReqKey, Delta]) -> None:
        prompt = self._prompts[key]
        delta = deltas.setdefault(key, Delta(*key))
        delta.prompt_logprobs = prompt.take()
        delta.is_prompt_whole = prompt.is_complete
        if prompt.is_complete:
            del self._prompts[key]

    def _decode(self, message: DetokenizeMsg, deltas: dict[ReqKey, Delta]) -> list[ReqKey]:
        """Add the step's tokens to their texts. Returns the requests whose text a stop string has ended."""
        uids = np.frombuffer(message.uids, "<i8").tolist()
        choices = np.frombuffer(message.choices, "<i4").tolist()
        tokens = np.frombuffer(message.token_ids, "<i4").tolist()
        hidden = message.hidden or bytes(len(uids))
        table = None if message.logprobs is None else self._table(message.logprobs)
        stopped = []
        for place, (uid, choice, token, is_hidden) in enumerate(zip(uids, choices, tokens, hidden, strict=True)):
            key = ReqKey(uid, choice)
            live = self._live.get(key)
            if live is None or live.stopped_after is not None:
                continue
            live.num_tokens += 1
            delta = deltas.setdefault(key, Delta(uid, choice))
            delta.num_tokens += 1
            if table is not None and live.num_top is not None:
                offset = live.detokenizer.num_chars
                found = table.at_place(place, token, live.num_top, offset, hidden=bool(is_hidden))
                delta.logprobs += [] if found is None else [found]
            if is_hidden:
                continue
            delta.text += live.detokenizer.add(token)
            if live.detokenizer.stopped:
                live.stopped_after = live.num_tokens
                stopped.append(key)
                if self._recorder.full:
                    self._recorder.emit(events.DetokStopped(self._recorder.now(), uid, choice, live.num_tokens))
        return stopped

    def _end(self, ending: Ending, deltas: dict[ReqKey, Delta]) -> None:
        key = ReqKey(ending.uid, ending.choice)
        delta = deltas.setdefault(key, Delta(*key))
        self._prompts.pop(key, None)
        live = self._live.pop(key, None)  # None: refused before it was accepted
        delta.ending = ending
        if live is None:
            return
        if live.stopped_after is None:
            delta.text += live.detokenizer.finish()
            if not live.detokenizer.stopped:
                return
        if ending.reason in (FinishReason.STOP, FinishReason.LENGTH):
            # the scheduler may have ended it before it heard of the stop string; the text ends there all the same
            ending.reason, ending.matched = FinishReason.STOP, live.detokenizer.matched
            ending.num_generated_tokens = live.stopped_after or live.num_tokens

    def _record(self, message: DetokenizeMsg, deltas: Mapping[ReqKey, Delta], start_ns: int) -> None:
        if not self._recorder.full or not message.uids:
            return
        uids = np.frombuffer(message.uids, "<i8").tolist()
        choices = np.frombuffer(message.choices, "<i4").tolist()
        texts = [
            delta.text if (delta := deltas.get(ReqKey(uid, choice))) else ""
            for uid, choice in zip(uids, choices, strict=True)
        ]
        num_chars = np.array([len(text) for text in texts], "<i4").tobytes()
        step, now = message.step, self._recorder.now()
        self._recorder.emit(events.DetokDecoded(now, start_ns, step, message.uids, message.choices, num_chars))
        if self._recorder.tokens:
            self._recorder.emit(events.DetokText(now, step, message.uids, message.choices, message.token_ids, texts))
