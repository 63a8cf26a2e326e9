"""The nouns of the server: sampling parameters, finish reasons, and the request.

Plain data that every other room shares. It imports nothing of ours and no torch, so that the API server, the
scheduler and a notebook can all hold the same objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

MAX_SEED = 2**63 - 1
MAX_STOP_STRINGS = 16


class FinishReason(StrEnum):
    """Why a request ended. Every request ends exactly once, with exactly one of these."""

    STOP = "stop"
    """The model gave an end-of-sequence token, or the text reached a stop string."""
    LENGTH = "length"
    """`max_tokens` was reached, or the model's context was full."""
    ABORT = "abort"
    """The client went away, or the server was told to stop."""
    ERROR = "error"
    """The request could not be served; the client was given a status and a message."""


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the tokens of one request are chosen, and when to stop.

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

    def __post_init__(self) -> None:
        """Check every range, so that an impossible value never travels further."""
        if not 0.0 <= self.temperature <= 100.0:  # also false for NaN
            raise ValueError(f"temperature is {self.temperature}; it must be between 0 and 100")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or left out to keep every token")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.seed is not None and not -MAX_SEED - 1 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must fit in a signed 64-bit integer")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise ValueError(f"stop has {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed")
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty string; every stop string needs at least one character")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1


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
    """

    key: ReqKey
    prompt_ids: Int32Array
    sampling: SamplingParams
    limit_len: int
    order: int
    row: int | None = None
    blocked_by: str | None = None

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    @property
    def max_new_tokens(self) -> int:
        """Most tokens this request can generate: its `max_tokens`, cut to the room left in the context."""
        return self.limit_len - self.prompt_len
