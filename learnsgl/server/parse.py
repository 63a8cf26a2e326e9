"""From the body of an HTTP request to a checked `NewRequest`, or to an error that names the field at fault.

`api_server.py` calls it. A field that nobody knows is refused, as the OpenAI API does it: a misspelt `temprature`
would otherwise change the answer in silence. A field that OpenAI, vLLM or SGLang know and this server doesn't support
is accepted as long as its value asks for nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from learnsgl.core import SamplingParams
from learnsgl.errors import RequestError
from learnsgl.server.openai import (
    COMPLETION_MAX_TOKENS,
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerateRequest,
    GenerateSampling,
    Sampling,
    StreamOptions,
    TokenId,
)

_IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "parallel_tool_calls",
    }
)  # fmt: skip
"""Fields that can't change an answer of this server."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logprobs": (False,), "top_logprobs": (0,),
    "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,), "min_p": (0,), "min_tokens": (0,),
    "min_new_tokens": (0,), "logit_bias": ({},), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (),
    "prediction": (), "reasoning_effort": ("none",), "verbosity": ("medium",), "web_search_options": (),
    "return_logprob": (False,), "logprob_start_len": (-1,), "lora_path": ("",), "regex": (), "json_schema": (),
    "stop_token_ids": ([],), "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,), "add_generation_prompt": (True,), "use_beam_search": (False,),
    "length_penalty": (1,), "priority": (0,), "image_data": (),
}  # fmt: skip
"""Fields that aren't supported yet, and the values (beside null) that ask for nothing."""

_PATH = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)

Schema = TypeVar("Schema", bound=msgspec.Struct)


@dataclass(frozen=True)
class NewRequest:
    """A checked request, whichever route it came by. One of `text`, `input_ids` and `messages` is set.

    Attributes:
        sampling: how to choose tokens.
        stream: whether the answer is a stream of events.
        include_usage: whether a stream ends with the usage.
        prompt_param: the field that holds the prompt, for errors that only the scheduler finds.
        body_bytes: length of the body.
    """

    sampling: SamplingParams
    stream: bool
    include_usage: bool
    prompt_param: str
    body_bytes: int
    text: str | None = None
    input_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None


def parse_chat(body: bytes, served_model: str) -> NewRequest:
    """Check the body of `POST /v1/chat/completions`.

    Raises:
        RequestError: it isn't JSON, a field is missing, unknown, unsupported, of the wrong type or out of range, or
            the model isn't the one that is served.
    """
    request = _read(body, ChatCompletionRequest)
    _check_model(request.model, served_model)
    names = {} if request.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    sampling = _sampling(request, request.seed, limit, names)
    stream, include_usage = _streaming(request.stream, request.stream_options)
    messages = [_plain_message(message, index) for index, message in enumerate(request.messages)]
    return NewRequest(sampling, stream, include_usage, "messages", len(body), messages=messages)


def parse_completion(body: bytes, served_model: str) -> NewRequest:
    """Check the body of `POST /v1/completions`.

    Raises:
        RequestError: as `parse_chat`.
    """
    request = _read(body, CompletionRequest)
    _check_model(request.model, served_model)
    limit = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    sampling = _sampling(request, request.seed, limit, {})
    stream, include_usage = _streaming(request.stream, request.stream_options)
    text, ids = _one_prompt(request.prompt)
    return NewRequest(sampling, stream, include_usage, "prompt", len(body), text=text, input_ids=ids)


def parse_generate(body: bytes) -> NewRequest:
    """Check the body of `POST /generate`.

    Raises:
        RequestError: as `parse_chat`.
    """
    request = _read(body, GenerateRequest)
    if (request.text is None) == (request.input_ids is None):
        given = "neither" if request.text is None else "both"
        raise RequestError(f"{given} of text and input_ids is given; give exactly one", param="text")
    params = _convert(request.sampling_params or {}, GenerateSampling, "sampling_params.")
    names = {"max_tokens": "max_new_tokens", "seed": "sampling_seed"}
    sampling = _sampling(params, params.sampling_seed, params.max_new_tokens, names)
    param = "input_ids" if request.text is None else "text"
    return NewRequest(
        sampling, bool(request.stream), False, param, len(body), text=request.text, input_ids=request.input_ids
    )


def _read(body: bytes, schema: type[Schema]) -> Schema:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise RequestError(f"the body isn't valid JSON: {reason}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object with the request's fields", code="invalid_json")
    return _convert(fields, schema)


def _convert(fields: dict[str, Any], schema: type[Schema], path: str = "") -> Schema:
    """Check names and types of an object's fields; `path` leads to the object."""
    known = {field.encode_name for field in msgspec.structs.fields(schema)}
    for name, value in fields.items():
        if name not in known:
            _check_other_field(name, value, known, path)
    try:
        return msgspec.convert({name: fields[name] for name in fields if name in known}, schema)
    except msgspec.ValidationError as error:
        raise _explain(str(error), path) from None


def _check_other_field(name: str, value: Any, known: set[str], path: str) -> None:
    if name in _IGNORED:
        return
    if name in _NEUTRAL:
        allowed = _NEUTRAL[name]
        if value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            return
        words = " or ".join(["leave it out", *(f"set it to {msgspec.json.encode(one).decode()}" for one in allowed)])
        raise RequestError(
            f"{path}{name} isn't supported by this server; {words}", code="unsupported", param=path + name
        )
    close = difflib.get_close_matches(name, [*known, *_NEUTRAL], n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"
    shown = name if len(name) <= 40 else name[:40] + "…"
    raise RequestError(f"unknown field {path}{shown}{hint}", code="unknown_parameter", param=path + shown)


def _explain(message: str, path: str) -> RequestError:
    """The error for the client, from msgspec's words and path."""
    match = _PATH.match(message)
    assert match is not None, "the pattern matches any text"
    words, where = match.group(1), path + (match.group(2) or "")
    if missing := _MISSING.match(words):
        param = f"{where}.{missing.group(1)}" if match.group(2) else path + missing.group(1)
        return RequestError(f"the field {param} is missing", code="missing_required_parameter", param=param)
    if unknown := _UNKNOWN.match(words):
        param = f"{where}.{unknown.group(1)}"
        return RequestError(f"unknown field {param}", code="unknown_parameter", param=param)
    if "min_length" in words or words.startswith("Expected `array` of length >= 1"):
        return RequestError(f"{where} is empty; it needs at least one element", param=where)
    code = "invalid_value" if "<=" in words or ">=" in words else "invalid_type"
    return RequestError(f"{where}: {words[0].lower()}{words[1:]}", code=code, param=where)


def _check_model(model: str, served_model: str) -> None:
    if model != served_model:
        raise RequestError(
            f"the model {model!r} does not exist; this server has {served_model!r}",
            status=404, code="model_not_found", param="model",
        )  # fmt: skip


def _sampling(
    fields: Sampling | GenerateSampling, seed: int | None, max_tokens: int | None, names: Mapping[str, str]
) -> SamplingParams:
    """Sampling parameters; `names` are the client's names of fields that we name otherwise."""
    stop = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    try:
        return SamplingParams(
            temperature=1.0 if fields.temperature is None else fields.temperature,
            top_k=None if fields.top_k == -1 else fields.top_k,  # vLLM's and SGLang's clients say "all" like this
            top_p=1.0 if fields.top_p is None else fields.top_p,
            seed=seed,
            max_tokens=max_tokens,
            stop=stop,
            ignore_eos=bool(fields.ignore_eos),
        )
    except ValueError as error:
        field, _, rest = str(error).partition(" ")
        param = names.get(field, field)
        raise RequestError(f"{param} {rest}", param=param) from None


def _streaming(stream: bool | None, options: StreamOptions | None) -> tuple[bool, bool]:
    if options is not None and not stream:
        raise RequestError("stream_options is only allowed with stream set to true", param="stream_options")
    return bool(stream), bool(options and options.include_usage)


def _plain_message(message: ChatMessage, index: int) -> dict[str, Any]:
    """A chat message as the template wants it."""
    for field in ("tool_calls", "function_call", "audio"):
        if getattr(message, field):
            param = f"messages[{index}].{field}"
            raise RequestError(f"{param} isn't supported by this server; leave it out", code="unsupported", param=param)
    plain = {"role": message.role, "content": message.content}
    return plain if message.name is None else plain | {"name": message.name}


def _one_prompt(prompt: str | list[Any]) -> tuple[str | None, list[int] | None]:
    """The single prompt of a completion, as text or as token ids."""
    if isinstance(prompt, list) and any(isinstance(item, (str, list)) for item in prompt):
        if len(prompt) > 1:
            raise RequestError(
                f"prompt holds {len(prompt)} prompts; this server takes one a request: send a request for each",
                code="unsupported",
                param="prompt",
            )
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt, None
    try:
        return None, msgspec.convert(prompt, list[TokenId])
    except msgspec.ValidationError as error:
        raise RequestError(
            f"prompt: {error}; give text, or token ids from 0", code="invalid_type", param="prompt"
        ) from None
