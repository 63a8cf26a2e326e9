"""The kinds of message, in the order in which a request causes them.

    API ──TokenizeMsg──▶ tokenizer ──UserMsg──▶ scheduler ──DetokenizeMsg──▶ detokenizer ──UserReply──▶ API
     └──────AbortMsg──────▶└──────AbortMsg────▶     ▲──────────AbortMsg──────────┘

Two more ask a worker for something beside requests, and take the same roads: `TextCallMsg` ends at the tokenizer,
`FlushCacheMsg` at the scheduler, and a `CallReply` comes back.

They are msgspec structs, encoded as MessagePack maps with their name in `type`; one ZMQ message carries a list of
them. Arrays travel as bytes: int32 token ids and int64 uids, little-endian. A client's abort takes the same road as
its request, so it can't overtake it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from learnsgl.core import FinishReason, SamplingParams


class ToolChoice(StrEnum):
    """Whether an answer calls tools."""

    AUTO = "auto"
    """The model decides."""
    NONE = "none"
    """It doesn't; the prompt tells the tools all the same."""
    REQUIRED = "required"
    """It does, and holds nothing else."""


class ToolsMsg(msgspec.Struct, omit_defaults=True):
    """The tools of a chat, and how the answer may use them."""

    tools: list[str]
    """OpenAI's tool objects, each as JSON text: numbers in a schema may be larger than a message's."""
    choice: ToolChoice = ToolChoice.AUTO
    only: str | None = None
    """The function that is to be called, with `REQUIRED`; `None`: any of them."""
    parallel: bool = True
    """Whether an answer may hold more than one call."""


class TemplateMsg(msgspec.Struct, omit_defaults=True):
    """How a chat is rendered, where its client doesn't want it as usual."""

    add_generation_prompt: bool = True
    """Whether the text ends with the beginning of an answer."""
    continue_final_message: bool = False
    """Whether the text ends within the last message, which the answer goes on with."""
    values: str | None = None
    """More variables for the template, as a JSON object's text: its numbers may be larger than a message's."""


class TokenizeMsg(msgspec.Struct, tag="TokenizeMsg", tag_field="type", omit_defaults=True):
    """API server to tokenizer: a new request. Exactly one of `text`, `input_ids` and `messages` is given."""

    uid: int
    sampling: SamplingParams
    text: str | None = None
    input_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    """A chat; the tokenizer renders it with the model's chat template."""
    echo: bool = False
    """The answer begins with the prompt; where that came as token ids, its text is wanted."""
    tools: ToolsMsg | None = None
    """With a chat: what the answer may call. The tokenizer writes the grammar of the answer."""
    template: TemplateMsg | None = None
    """With a chat: how it is rendered; `None`: as usual."""


class AbortMsg(msgspec.Struct, tag="AbortMsg", tag_field="type", omit_defaults=True):
    """Stop a request. From the API server: the client went away. From the detokenizer: a stop string was met."""

    uid: int
    choice: int | None = None
    """`None`: every choice of the request."""
    reason: FinishReason = FinishReason.ABORT
    num_kept_tokens: int | None = None
    """With a stop string: generated tokens up to and including the one that completed it."""


class TextCallMsg(msgspec.Struct, tag="TextCallMsg", tag_field="type", omit_defaults=True):
    """API server to tokenizer: text or a chat to token ids, or token ids to text. One of the three is given."""

    call: int
    """Number of the call, which its reply has too."""
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    token_ids: list[int] | None = None
    special_tokens: bool = True
    """Of text: whether those are added that the model wants at its beginning; of token ids: whether they give text."""
    with_strings: bool = False
    """Whether each token is wanted as text, too."""
    template: TemplateMsg | None = None
    """With a chat: how it is rendered; `None`: as usual."""


class FlushCacheMsg(msgspec.Struct, tag="FlushCacheMsg", tag_field="type"):
    """API server to scheduler, through the tokenizer: forget every cached prefix, unless a request runs."""

    call: int


class CallReply(msgspec.Struct, omit_defaults=True):
    """What came of a call."""

    call: int
    text: str | None = None
    token_ids: list[int] | None = None
    token_strings: list[str] | None = None
    num_pages: int = 0
    """Pages of the cache that are free now."""
    error: ErrorInfo | None = None


class UserMsg(msgspec.Struct, tag="UserMsg", tag_field="type", omit_defaults=True):
    """Tokenizer to scheduler: a tokenized request."""

    uid: int
    input_ids: bytes
    """int32 [prompt_len]."""
    sampling: SamplingParams
    wants_prompt: bool = False
    """The detokenizer is to give the prompt's text."""


class Accepted(msgspec.Struct, omit_defaults=True):
    """The scheduler has queued a request with all its choices: it fits the context and will be served."""

    uid: int
    num_prompt_tokens: int
    sampling: SamplingParams
    """The detokenizer reads its stop strings, and which log-probabilities are wanted."""
    prompt_ids: bytes = b""
    """int32 [num_prompt_tokens], where the prompt's text or its log-probabilities are wanted."""


class ErrorInfo(msgspec.Struct, omit_defaults=True):
    """An error for the client, as `errors.RequestError` holds it."""

    message: str
    status: int = 400
    code: str = "invalid_value"
    param: str | None = None


class Ending(msgspec.Struct, omit_defaults=True):
    """The scheduler has ended a request; nothing follows for it."""

    uid: int
    choice: int
    reason: FinishReason
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    """Tokens generated and kept, an end-of-sequence token counted."""
    error: ErrorInfo | None = None
    matched: int | str | None = None
    """With `STOP`: the token or the stop string that ended it."""


class SchedulerStats(msgspec.Struct, array_like=True, frozen=True):
    """How the scheduler stands, for the server's metrics; its counts begin with its start."""

    step: int = 0
    num_running: int = 0
    """Requests that hold a row of the table."""
    num_waiting: int = 0
    num_free_pages: int = 0
    num_evictable_pages: int = 0
    """Pages that only the prefix cache holds."""
    num_prompt_tokens: int = 0
    """Tokens of the prompts that were admitted."""
    num_cached_tokens: int = 0
    """Of these, tokens whose KV was in the cache."""
    num_generated_tokens: int = 0


class LogprobsMsg(msgspec.Struct, omit_defaults=True):
    """Log-probabilities of m tokens, and the likeliest tokens at their places, as `executor.TokenLogprobs` has them."""

    logprobs: bytes
    """float32 [m]."""
    num_top: int
    top_ids: bytes
    """int32 [m, num_top]."""
    top_logprobs: bytes
    """float32 [m, num_top]."""
    places: bytes = b""
    """int32 [m], with the tokens of a step: which of them these are."""


class PromptLogprobsMsg(msgspec.Struct):
    """Those of the next run of a prompt's tokens; the first run begins at the prompt's second token."""

    uid: int
    choice: int
    values: LogprobsMsg


class DetokenizeMsg(msgspec.Struct, tag="DetokenizeMsg", tag_field="type", omit_defaults=True):
    """Scheduler to detokenizer: what one step gave, for all requests at once. `accepted` apply first, `endings` last.

    The token with which a request ended, by end of sequence or as one of its stop tokens, is in `token_ids` too;
    `hidden` says that it gives no text.
    """

    step: int = 0
    accepted: list[Accepted] = []
    uids: bytes = b""
    """int64 [n]."""
    choices: bytes = b""
    """int32 [n]."""
    token_ids: bytes = b""
    """int32 [n]; one token for each request named in `uids`."""
    hidden: bytes = b""
    """uint8 [n]; 1 for a token that ended its request, which gives no text. Empty: none is hidden."""
    endings: list[Ending] = []
    logprobs: LogprobsMsg | None = None
    """Of those of `token_ids` whose requests ask for it."""
    prompt_logprobs: list[PromptLogprobsMsg] = []
    replies: list[CallReply] = []
    stats: SchedulerStats | None = None


class TopLogprob(msgspec.Struct, array_like=True, frozen=True):
    """One of the likeliest tokens at a place."""

    token_id: int
    token: bytes
    """Its text in UTF-8; a part of a character where the token is one."""
    logprob: float


class TokenLogprob(msgspec.Struct, array_like=True, frozen=True):
    """A token of a prompt or of an answer, with its log-probability."""

    token_id: int
    token: bytes
    """As in `TopLogprob`; a special token as it is written."""
    logprob: float | None
    """`None` for a prompt's first token, which nothing predicts."""
    offset: int
    """Characters of the prompt's or the answer's text before it."""
    top: tuple[TopLogprob, ...]
    """As many of the likeliest tokens as were asked for."""
    hidden: bool = False
    """The token ended the answer, and gives no text."""


class Delta(msgspec.Struct, omit_defaults=True):
    """What is new for one request: text, its acceptance, its end, or several of these at once."""

    uid: int
    choice: int = 0
    accepted: bool = False
    """The request was queued; a stream may begin."""
    text: str = ""
    num_tokens: int = 0
    """Generated tokens that this delta brings (their text may still be held back)."""
    prompt_text: str | None = None
    """The prompt's text, where it was asked for; with the acceptance of the first choice."""
    logprobs: list[TokenLogprob] = []
    """Of the generated tokens that this delta brings, where they were asked for."""
    prompt_logprobs: list[TokenLogprob] = []
    """Of the next of the prompt's tokens, for the first choice."""
    is_prompt_whole: bool = False
    """Whether those were the last of the prompt's."""
    ending: Ending | None = None


class UserReply(msgspec.Struct, tag="UserReply", tag_field="type", omit_defaults=True):
    """Detokenizer (or tokenizer, for an error) to API server: deltas for any number of requests, in order."""

    deltas: list[Delta]
    replies: list[CallReply] = []
    stats: SchedulerStats | None = None
    """The scheduler's own, as they were after the step that this is about."""


Message = TokenizeMsg | AbortMsg | TextCallMsg | FlushCacheMsg | UserMsg | DetokenizeMsg | UserReply
