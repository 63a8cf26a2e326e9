"""The nouns of the server: sampling parameters, finish reasons, and the request.

Plain data that every other room shares. It imports nothing of ours and no torch, so that the API server, the
scheduler and a notebook can all hold the same objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]

MAX_SEED = 2**63 - 1
MAX_STOP_STRINGS = 16
MAX_STOP_LEN = 1024
MAX_STOP_TOKENS = 256
MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100.0
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in a chat."""


class FinishReason(StrEnum):
    """Why a request ended. Every request ends exactly once, with exactly one of these."""

    STOP = "stop"
    """The model gave an end-of-sequence token or a stop token, or the text reached a stop string."""
    LENGTH = "length"
    """`max_tokens` was reached, or the model's context was full."""
    ABORT = "abort"
    """The client went away, or the server was told to stop."""
    ERROR = "error"
    """The request could not be served; the client was given a status and a message."""


class GrammarKind(StrEnum):
    """How a `Grammar` is written."""

    JSON_OBJECT = "json_object"
    """Any JSON object; the text is empty."""
    JSON_SCHEMA = "json_schema"
    """A JSON Schema, as JSON text."""
    REGEX = "regex"
    """A regular expression in the syntax of Rust's `regex`; the whole answer must match it."""
    LARK = "lark"
    """A context-free grammar in llguidance's variant of Lark."""


class Grammar(msgspec.Struct, frozen=True):
    """What an answer must look like. The scheduler compiles it and rules out every token that would break it."""

    kind: GrammarKind
    text: str = ""


RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 100.0),
    "n": (1, MAX_CHOICES),
    "logprobs": (0, MAX_TOP_LOGPROBS),
    "prompt_logprobs": (0, MAX_TOP_LOGPROBS),
}
"""Least and greatest value of each field that needs no more than that; `None` is outside of any range, and allowed."""


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the tokens of one request are chosen, and when to stop.

    Logits are first changed token by token (`logit_bias`, then the repetition penalty, then the other two), then
    divided by the temperature; then top-k, top-p and min-p each rule out tokens that the one before has left.

    Raises:
        ValueError: a value is out of its range; the message names the field, the value and the range.
    """

    temperature: float = 1.0
    """0 is greedy; higher is flatter. Range 0 to 100."""
    top_k: int | None = None
    """Keep only the k likeliest tokens; `None` keeps all. At least 1."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities sum to at least this. Above 0, at most 1."""
    seed: int | None = None
    """The same seed, prompt and parameters give the same tokens, whoever else is in the batch."""
    max_tokens: int | None = None
    """Most tokens to generate; `None`, or more than the context has room for, means: as many as fit."""
    stop: tuple[str, ...] = ()
    """Text at which generation ends; it isn't part of the answer."""
    ignore_eos: bool = False
    """Go on after an end-of-sequence token (for benchmarks)."""
    min_p: float = 0.0
    """Keep only tokens at least this many times as probable as the likeliest one. Range 0 to 1."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer as an end-of-sequence token does; they give no text."""
    min_tokens: int = 0
    """Tokens that are generated before an end-of-sequence token, a stop token or a stop string can end the answer."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time that it was generated before. Range -2 to 2."""
    presence_penalty: float = 0.0
    """Taken off a token's logit once it was generated. Range -2 to 2."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of tokens in the prompt or the answer so far. Range 0.01
    to 100. Source: CTRL, Keskar et al. (2019), section 4.1."""
    logit_bias: dict[int, float] = {}
    """Added to the logits of these tokens, -100 to 100 each."""
    n: int = 1
    """Answers to the one prompt, each with random numbers of its own."""
    logprobs: int | None = None
    """Give the log-probability of each generated token, and of so many of the likeliest tokens at its place. They are
    the model's own: before bias, penalties, temperature and filters."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens, of which the first has none; then no cached prefix can be used."""
    grammar: Grammar | None = None
    """Only tokens that this allows are chosen, before any other filter; `None`: all."""

    def __post_init__(self) -> None:
        """Check every range, so that an impossible value never travels further."""
        for name, (least, greatest) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= greatest:  # also true for NaN
                raise ValueError(f"{name} is {value}; it must be between {least:g} and {greatest:g}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or left out to keep every token")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.seed is not None and not -MAX_SEED - 1 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must fit in a signed 64-bit integer")
        self._check_lengths()
        self._check_lists()

    def _check_lengths(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens is {self.min_tokens}; it must be at least 0")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}, more than max_tokens, which is {self.max_tokens}")

    def _check_lists(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise ValueError(f"stop has {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed")
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty string; every stop string needs at least one character")
        if any(len(text) > MAX_STOP_LEN for text in self.stop):
            raise ValueError(f"stop holds a text of more than {MAX_STOP_LEN} characters; shorten it")
        if len(self.stop_token_ids) > MAX_STOP_TOKENS:
            raise ValueError(
                f"stop_token_ids has {len(self.stop_token_ids)} ids; at most {MAX_STOP_TOKENS} are allowed"
            )
        if len(self.logit_bias) > MAX_BIASED_TOKENS:
            raise ValueError(f"logit_bias has {len(self.logit_bias)} tokens; at most {MAX_BIASED_TOKENS} are allowed")
        for token, bias in self.logit_bias.items():
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                raise ValueError(
                    f"logit_bias of token {token} is {bias}; it must be between {-MAX_BIAS:g} and {MAX_BIAS:g}"
                )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        """Whether what was generated before changes a token's logit."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


class ReqKey(NamedTuple):
    """What names a request everywhere: the id the API gave it, and which of its `n` choices it is."""

    uid: int
    choice: int = 0


class Stage(IntEnum):
    """Where a request that holds a table row stands. A waiting request has no row, so it has no stage here."""

    PREFILL = 1
    """Some of its prompt has not been submitted to the engine yet."""
    DECODE = 2
    """Its whole prompt is submitted; each step adds one token."""
    FINISHED = 3
    """It has ended, but a step that is still in flight holds its row: its pages go back when that is collected."""


class TokenMatcher(Protocol):
    """Follows one answer through its grammar; `scheduler/grammar_matcher.py` has the real one."""

    error: str | None
    """Why it can't go on; `None` as long as it can."""

    def take(self, token: int) -> None:
        """Go on by a token that was sampled."""
        ...

    num_mask_bytes: int
    """Length of a mask, one bit for each token of the model."""
    num_filled_bytes: int
    """Length of what `fill` writes, of which the mask is the beginning."""

    def fill(self, bits: npt.NDArray[np.uint8], sampling: SamplingParams, num_output: int) -> bool:
        """Write the tokens that may come next, one bit each; false where it can't go on."""
        ...


@dataclass(slots=True, eq=False)
class Req:
    """One sequence to complete, as the scheduler knows it.

    The lengths of a running request live in the scheduler's table (`scheduler/table.py`), column by column, so
    that a step of 256 requests is a few array operations. What stays the same all its life is here.

        |<-------------------------- limit_len --------------------------->|
        |<------------- prompt_len ------------->|<------- max_new ------->|
        |<- cached_len ->|<- chunk ->|<- chunk ->|   one token each step   |
        ^ pages shared from the cache            ^ first token sampled here

    Attributes:
        key: the request's id and choice.
        prompt_ids: token ids of the prompt, int32 [prompt_len].
        sampling: how to choose tokens.
        limit_len: prompt and output together never exceed this many tokens.
        order: arrival number in this scheduler; first come, first served goes by it.
        row: the table row it holds while it runs.
        blocked_by: why it was not admitted when it was last looked at.
        matcher: says which token may come next, where the request has a grammar.
    """

    key: ReqKey
    prompt_ids: Int32Array
    sampling: SamplingParams
    limit_len: int
    order: int
    row: int | None = None
    blocked_by: str | None = None
    matcher: TokenMatcher | None = None

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the prompt's log-probabilities come from this sequence: once for all choices, from the first."""
        return self.key.choice == 0 and self.sampling.prompt_logprobs is not None

    @property
    def max_new_tokens(self) -> int:
        """Most tokens this request can generate: its `max_tokens`, cut to the room left in the context."""
        return self.limit_len - self.prompt_len
