"""What clients may send: the schemas of the OpenAI routes, and what becomes of every field that isn't in them.

`parse.py` reads bodies into them. The defaults are those of the API that they mirror; `docs/api.md` has a line for
each field, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from learnsgl.message.types import ToolChoice
from learnsgl.tokenizer.tool_text import NAME_PATTERN

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for `/v1/completions`; chats go on until the model ends them."""
MAX_ANSWERS = 1024
"""Most answers to one request: its prompts, each `n` times."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A number that fits into a message; JSON's may have any length."""
MAX_TOOLS = 128
"""Most tools of a chat, as at OpenAI."""
# What the document of the API tells of these; `tools.py` checks them, and says what is wrong in its own words.
FunctionName = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{NAME_PATTERN}$"})]
ToolType = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["function"]})]
ToolChoiceName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": [choice.value for choice in ToolChoice]})]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream is to carry beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """OpenAI's padding of chunks; there is none here."""
    continuous_usage_stats: bool | None = None
    """vLLM's usage in every chunk; only false is taken."""


class CalledFunction(msgspec.Struct):
    """What a past call called, with the arguments as JSON text."""

    name: FunctionName
    arguments: str


class ToolCall(msgspec.Struct):
    """A call of a past answer, as the client got it."""

    id: str
    function: CalledFunction
    type: ToolType = "function"


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """A function that an answer may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON Schema of its arguments; without one there are none."""
    strict: bool | None = None
    """Whether the schema may hold only what a grammar can enforce."""


class FunctionTool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool; only functions are supported."""

    type: ToolType
    function: Function


class ChatMessage(msgspec.Struct):
    """One turn of a chat; the tokenizer checks role and content. Other fields come back from OpenAI's own answers."""

    role: str
    content: str | list[Any] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None


class Sampling(msgspec.Struct, kw_only=True):
    """The sampling fields that the OpenAI routes share; those that OpenAI doesn't have are vLLM's."""

    temperature: float | None = None
    top_k: Int64 | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: Int64 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Int64] | None = None
    ignore_eos: bool | None = None
    max_tokens: Int64 | None = None
    min_tokens: Int64 | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[Int64, float] | None = None
    n: Int64 | None = None


class JsonSchemaFormat(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's wrapping of a schema. The grammar is always strict, and the model isn't told of name and description."""

    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """Which form an answer must have."""

    type: str
    json_schema: JsonSchemaFormat | None = None
    schema: dict[str, Any] | None = None
    """With `json_object`, as llama.cpp's server has it."""


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """The same in vLLM's words; one of them."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Constrained(Sampling, kw_only=True):
    """The fields that hold an answer to a grammar. The last four are vLLM's former names."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class ChatCompletionRequest(Constrained, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: Int64 | None = None
    logprobs: bool | None = None
    top_logprobs: Int64 | None = None
    tools: Annotated[list[FunctionTool], msgspec.Meta(extra_json_schema={"maxItems": MAX_TOOLS})] | None = None
    tool_choice: ToolChoiceName | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionRequest(Constrained, kw_only=True):
    """Body of `POST /v1/completions`. The prompt is text, token ids, or a list of either."""

    model: str
    prompt: str | list[Any]
    echo: bool | None = None
    best_of: Int64 | None = None
    logprobs: Int64 | bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "parallel_tool_calls", "cache_prompt",
    }
)  # fmt: skip
"""Fields that can't change an answer of this server: whatever their value, they are accepted."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,), "suffix": ("",), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "guided_decoding_backend": (), "guided_whitespace_pattern": (),
    "modalities": (["text"],), "audio": (),
    "prediction": (), "reasoning_effort": ("none",), "verbosity": ("medium",), "web_search_options": (),
    "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,), "add_generation_prompt": (True,), "use_beam_search": (False,),
    "length_penalty": (1,), "priority": (0,), "echo": (False,), "prompt_logprobs": (), "documents": ([],),
    "continue_final_message": (False,), "chat_template": (), "chat_template_kwargs": ({},),
    "include_reasoning": (True,), "allowed_token_ids": (), "bad_words": ([],), "truncate_prompt_tokens": (),
    "logits_processors": ([],),
    "return_token_ids": (False,), "return_tokens_as_token_ids": (False,), "cache_salt": (), "repeat_penalty": (1,),
    "typical_p": (1,), "mirostat": (0,), "n_probs": (0,), "timings_per_token": (False,),
}  # fmt: skip
"""Fields that aren't supported, and the values (beside null) that ask for nothing and so are accepted."""
