"""One choice of a running request, its prompt, and the pieces in which its answer is taken.

`live.py` holds them for each HTTP request; the forms of the answers are filled from the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from learnsgl.core import FinishReason, ReqKey
from learnsgl.message.types import Delta, Ending, TokenLogprob
from learnsgl.server.new_request import NewPrompt
from learnsgl.tokenizer.tool_parser import CallDelta, CallParser


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one choice, or all of it.

    Attributes:
        index: the choice's number in the answer.
        text: its text.
        ending: why it ended, once it has.
        logprobs: log-probabilities of the tokens of this text, where they were asked for.
        calls: what is new of its tool calls; of their tokens too are the log-probabilities.
    """

    index: int
    text: str
    ending: Ending | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[CallDelta, ...] = ()


@dataclass(slots=True, eq=False)
class LivePrompt:
    """What is known of a prompt.

    Attributes:
        text: its text, once that is known.
        awaits_logprobs: whether its log-probabilities are still to come.
        logprobs: those that have come.
    """

    text: str | None
    awaits_logprobs: bool = False
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, delta: Delta) -> bool:
        """Take what a worker gave. Returns whether the last of the log-probabilities have come with it."""
        self.text = delta.prompt_text if self.text is None else self.text
        self.logprobs += delta.prompt_logprobs
        self.awaits_logprobs = self.awaits_logprobs and not delta.is_prompt_whole
        return delta.is_prompt_whole


@dataclass(slots=True, eq=False)
class LiveChoice:
    """One answer to one prompt, as far as it has come.

    Attributes:
        key: what names it in messages and in the trace.
        index: its number in the HTTP answer.
        prompt: what it answers.
        every_token: whether log-probabilities are given of every token as it comes. Otherwise they come with the text
            that a token is part of, and never for tokens of a stop string or one that ended the answer.
        parser: takes tool calls out of the text; `None` where there can't be any.
        accepted: whether the scheduler has queued it.
        ending: why it ended, once it has.
        is_waiting: whether it waits for its first token.
    """

    key: ReqKey
    index: int
    prompt: NewPrompt
    every_token: bool = False
    parser: CallParser | None = None
    accepted: bool = False
    ending: Ending | None = None
    is_waiting: bool = True
    _texts: list[str] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _num_chars: int = 0
    """Characters that were taken."""
    _num_echoed: int | None = None
    """Characters of the prompt ahead of the answer, once it has begun with them."""
    _is_told: bool = False

    def add(self, delta: Delta) -> None:
        """Take what a worker gave."""
        self.accepted = self.accepted or delta.accepted
        self.is_waiting = self.is_waiting and not delta.num_tokens and delta.ending is None
        if self.prompt.without_answer:
            self.ending = self.ending if delta.ending is None else _without_answer(delta.ending)
            return
        if delta.text:
            self._texts.append(delta.text)
        if delta.logprobs:
            self._logprobs += [_moved(entry, self._num_echoed or 0) for entry in delta.logprobs]
        if delta.ending is not None:
            self.ending = delta.ending

    def begin(self, prompt: LivePrompt) -> bool:
        """Have the answer begin with its prompt. Returns whether it has; false while that isn't known whole."""
        if self._num_echoed is None:
            if prompt.awaits_logprobs and self.ending is None:
                return False
            text = prompt.text or ""
            self._num_echoed = len(text)
            self._texts.insert(0, text)
            self._logprobs = [*prompt.logprobs, *(_moved(entry, len(text)) for entry in self._logprobs)]
        return True

    def take(self) -> Piece | None:
        """What is new since the last time; `None` where nothing is."""
        if self._is_told:
            return None
        text = "".join(self._texts)
        self._texts.clear()
        self._num_chars += len(text)
        due = self._take_logprobs()
        self._is_told = self.ending is not None
        calls: tuple[CallDelta, ...] = ()
        if self.parser is not None:
            text, calls = self.parser.feed(text, final=self._is_told)
        is_new = text or calls or due or self._is_told
        return Piece(self.index, text, self.ending, tuple(due), calls) if is_new else None

    def _take_logprobs(self) -> list[TokenLogprob]:
        """Those that are due: as they come, or with the text of their tokens."""
        if self.every_token or not self._logprobs:
            due, self._logprobs = self._logprobs, []
            return due
        is_cut = self.ending is not None and isinstance(self.ending.matched, str)
        if self.ending is not None and not is_cut:
            num_due = len(self._logprobs)
        else:  # offsets only grow
            num_due = sum(entry.offset < self._num_chars for entry in self._logprobs)
        due, self._logprobs = self._logprobs[:num_due], self._logprobs[num_due:]
        return [entry for entry in due if not entry.hidden]


def _without_answer(ending: Ending) -> Ending:
    """How a choice ends that has no answer: the token that was sampled counts for nothing."""
    reason = FinishReason.LENGTH if ending.reason is FinishReason.STOP else ending.reason
    return msgspec.structs.replace(ending, reason=reason, num_generated_tokens=0, matched=None)


def _moved(entry: TokenLogprob, num_chars: int) -> TokenLogprob:
    """The same, so many characters further on."""
    return msgspec.structs.replace(entry, offset=entry.offset + num_chars) if num_chars else entry


def joined(parts: Sequence[Piece]) -> Piece:
    """The pieces of one choice as one."""
    text = "".join(part.text for part in parts)
    logprobs = tuple(entry for part in parts for entry in part.logprobs)
    return Piece(parts[0].index, text, parts[-1].ending, logprobs, tuple(call for part in parts for call in part.calls))
