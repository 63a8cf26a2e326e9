"""A request of the offline API while it runs, and the calls that wait for requests.

`pipeline.py` fills them in; `llm.py` reads what has come.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from learnsgl.core import FinishReason, ReqKey
from learnsgl.errors import RequestError
from learnsgl.message.types import Delta, Ending, TokenLogprob
from learnsgl.offline.completion import Completion, Timing


@dataclass(eq=False)
class LiveCompletion:
    """One answer to a prompt, as far as it has come.

    Attributes:
        key: the request's id, and which of its choices this is.
        num_choices: how many choices the request has.
        index: place of its prompt in the call.
        call: the call that waits for it.
        streamed: whether its caller takes it piece by piece.
        submitted_ns: when it was handed in, on `time.monotonic_ns`.
        abandoned: whether its caller wants no more of it.
    """

    key: ReqKey
    num_choices: int
    index: int
    call: Call
    streamed: bool
    submitted_ns: int
    abandoned: bool = False
    _texts: list[str] = field(default_factory=list)
    _token_ids: list[int] = field(default_factory=list)
    _num_tokens: int = 0
    """Tokens that count; those that were generated behind a stop string are in `_token_ids`, and don't."""
    _first_token_ns: int | None = None
    _last_token_ns: int | None = None
    _ended_ns: int = 0
    _ending: Ending | None = None
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    _num_texts_taken: int = 0
    _num_tokens_taken: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ending is not None

    @property
    def has_news(self) -> bool:
        """Whether `take` would give anything."""
        return self._num_texts_taken < len(self._texts) or self._num_tokens_taken < self._num_tokens

    def add_token(self, token_id: int) -> None:
        """Take a generated token; whether it counts, the detokenizer decides."""
        self._token_ids.append(token_id)

    def add(self, delta: Delta, now_ns: int) -> None:
        """Take what the detokenizer gave at this moment."""
        if delta.num_tokens:
            self._num_tokens += delta.num_tokens
            self.call.num_tokens += delta.num_tokens
            self._first_token_ns = self._first_token_ns or now_ns
            self._last_token_ns = now_ns
        self._logprobs += delta.logprobs
        self._prompt_logprobs += delta.prompt_logprobs
        if delta.text:
            self._texts.append(delta.text)
        if delta.ending is not None:
            self._ending, self._ended_ns = delta.ending, now_ns
            self.call.ended.append(self)

    def take(self) -> tuple[str, list[int]]:
        """Text and tokens that have come since the last time."""
        text = "".join(self._texts[self._num_texts_taken :])
        tokens = self._token_ids[self._num_tokens_taken : self._num_tokens]
        self._num_texts_taken, self._num_tokens_taken = len(self._texts), self._num_tokens
        return text, tokens

    def completion(self) -> Completion:
        """The whole answer, once it has ended."""
        ending = self._ending
        assert ending is not None, "asked for after its end"
        error = None
        if ending.error is not None:
            info = ending.error
            error = RequestError(info.message, status=info.status, code=info.code, param=info.param)
        moments = (self.submitted_ns, self._first_token_ns, self._last_token_ns, self._ended_ns)
        return Completion(
            index=self.index,
            choice=self.key.choice,
            text="".join(self._texts),
            token_ids=self._token_ids[: self._num_tokens],
            finish_reason=FinishReason(ending.reason),
            num_prompt_tokens=ending.num_prompt_tokens,
            num_cached_tokens=ending.num_cached_tokens,
            num_generated_tokens=self._num_tokens,
            timing=Timing.between(*moments, self._num_tokens),
            error=error,
            logprobs=self._logprobs or None,
            prompt_logprobs=self._prompt_logprobs or None,
        )


@dataclass(eq=False)
class Call:
    """One call of `generate` or `stream`, and the requests that it made.

    Attributes:
        route: what the trace calls it: `LLM.generate` or `LLM.stream`.
        lives: its answers, in the order of its prompts and their choices.
        num_prompts: prompts that were handed in.
        ended: those that have ended, and that the caller hasn't been given yet.
        num_tokens: tokens generated so far, for all of them.
    """

    route: str
    lives: list[LiveCompletion] = field(default_factory=list)
    num_prompts: int = 0
    ended: deque[LiveCompletion] = field(default_factory=deque)
    num_tokens: int = 0
