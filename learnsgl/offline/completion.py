"""What the offline API gives back: whole answers, pieces of a stream, and how far a call has come.

`llm.py` hands these out, `learnsgl generate` prints them, and notebooks read them. Plain data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from learnsgl.core import FinishReason
from learnsgl.errors import RequestError
from learnsgl.message.types import TokenLogprob


@dataclass(frozen=True, slots=True)
class Timing:
    """When one answer came, counted from the moment its prompt was handed in, so that waiting is part of it.

    Attributes:
        ttft_s: seconds to its first token; `None` where it has none.
        tpot_s: seconds a token after the first; `None` with fewer than two tokens.
        total_s: seconds to its end.
    """

    ttft_s: float | None
    tpot_s: float | None
    total_s: float

    @classmethod
    def between(
        cls, submitted_ns: int, first_token_ns: int | None, last_token_ns: int | None, ended_ns: int, num_tokens: int
    ) -> Timing:
        """From moments on `time.monotonic_ns`."""
        ttft_s = None if first_token_ns is None else (first_token_ns - submitted_ns) / 1e9
        tpot_s = None
        if first_token_ns is not None and last_token_ns is not None and num_tokens > 1:
            tpot_s = (last_token_ns - first_token_ns) / 1e9 / (num_tokens - 1)
        return cls(ttft_s, tpot_s, (ended_ns - submitted_ns) / 1e9)


@dataclass(frozen=True, slots=True)
class Completion:
    """One prompt's answer.

    Attributes:
        index: place of its prompt in the call, counted from 0.
        text: the answer, up to where a stop string began.
        token_ids: tokens that count, an end-of-sequence token and those of a stop string among them.
        finish_reason: stop, length, abort or error.
        num_prompt_tokens: length of the prompt.
        num_cached_tokens: of these, tokens whose KV was in the cache already.
        num_generated_tokens: length of `token_ids`.
        timing: when it came.
        error: why there is no (whole) answer; `None` where all went well.
        choice: which of the prompt's `n` answers this is.
        logprobs: the log-probabilities of `token_ids`, where `SamplingParams.logprobs` asked for them.
        prompt_logprobs: those of the prompt's tokens, likewise; with the first choice.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int
    timing: Timing
    error: RequestError | None = None
    choice: int = 0
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None

    def raise_for_error(self) -> Completion:
        """The completion itself.

        Raises:
            RequestError: the prompt couldn't be answered.
        """
        if self.error is not None:
            raise self.error
        return self

    def to_json(self) -> dict[str, Any]:
        """The completion as JSON-ready values, with the attributes' names."""
        error = self.error
        return {
            "index": self.index,
            "choice": self.choice,
            "text": self.text,
            "finish_reason": self.finish_reason.value,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_cached_tokens": self.num_cached_tokens,
            "num_generated_tokens": self.num_generated_tokens,
            "ttft_s": self.timing.ttft_s,
            "tpot_s": self.timing.tpot_s,
            "total_s": self.timing.total_s,
            "error": None if error is None else {"message": str(error), "code": error.code, "param": error.param},
        }


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What is new in a stream.

    Attributes:
        text: new text; empty while a character or a stop string may be half there.
        token_ids: new tokens.
        completion: the whole answer, in the last delta only.
    """

    text: str
    token_ids: list[int]
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call of `generate` has come.

    Attributes:
        num_prompts: answers that the call waits for: its prompts, each as often as its `n` says.
        num_finished: of these, how many have ended.
        num_tokens: tokens generated so far, for all of them.
        elapsed_s: seconds since the call.
    """

    num_prompts: int
    num_finished: int
    num_tokens: int
    elapsed_s: float

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, over the whole call."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0
