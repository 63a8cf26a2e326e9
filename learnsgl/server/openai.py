"""What clients may send: the schemas of the OpenAI routes and of SGLang's `/generate`.

`parse.py` reads bodies into them. The defaults are those of the APIs that they mirror.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for `/v1/completions`; chats go on until the model ends them."""
GENERATE_MAX_TOKENS = 128
"""SGLang's default for `/generate`."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A number that fits into a message; JSON's may have any length."""
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream is to carry beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """OpenAI's padding of chunks; there is none here."""


class ChatMessage(msgspec.Struct):
    """One turn of a chat; the tokenizer checks role and content. Other fields come back from OpenAI's own answers."""

    role: str
    content: str | list[Any] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None
    audio: Any = None


class Sampling(msgspec.Struct, kw_only=True):
    """The sampling fields that the OpenAI routes share; `top_k` and `ignore_eos` are additions, as in vLLM."""

    temperature: float | None = None
    top_k: Int64 | None = None
    top_p: float | None = None
    seed: Int64 | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    max_tokens: Int64 | None = None


class ChatCompletionRequest(Sampling, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: Int64 | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionRequest(Sampling, kw_only=True):
    """Body of `POST /v1/completions`. The prompt is text, token ids, or a list that holds one of these."""

    model: str
    prompt: str | list[Any]
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class GenerateSampling(msgspec.Struct, forbid_unknown_fields=True):
    """SGLang's sampling parameters."""

    temperature: float | None = None
    top_k: Int64 | None = None
    top_p: float | None = None
    sampling_seed: Int64 | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    max_new_tokens: Int64 | None = GENERATE_MAX_TOKENS


class GenerateRequest(msgspec.Struct):
    """Body of SGLang's `POST /generate`; exactly one of `text` and `input_ids`."""

    text: str | None = None
    input_ids: list[TokenId] | None = None
    sampling_params: dict[str, Any] | None = None
    stream: bool | None = None
