"""From the body of an OpenAI route to a checked `NewRequest`, or to an error that names the field at fault.

`api_server.py` calls it, and `learnsgl generate` for lines of JSON. The schemas are in `openai.py`; how a body is
read, in `body.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from learnsgl.core import SamplingParams
from learnsgl.errors import RequestError
from learnsgl.message.types import ToolChoice
from learnsgl.server.body import OtherFields, convert, explained, read_object
from learnsgl.server.chat_template import read_template
from learnsgl.server.new_request import NewPrompt, NewRequest
from learnsgl.server.openai import (
    COMPLETION_MAX_TOKENS,
    IGNORED,
    MAX_ANSWERS,
    NEUTRAL,
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    Sampling,
    StreamOptions,
    TokenId,
)
from learnsgl.server.response_format import read_form, refuse_with_tools
from learnsgl.server.tools import plain_calls, read_tools, refuse_legacy

OTHERS = OtherFields(NEUTRAL, IGNORED)


def parse_chat(body: bytes, served_model: str) -> NewRequest:
    """Check the body of `POST /v1/chat/completions`.

    Raises:
        RequestError: it isn't JSON, a field is missing, unknown, unsupported, of the wrong type or out of range, or
            the model isn't the one that is served.
    """
    fields = read_object(body)
    refuse_legacy(fields)
    request = convert(fields, ChatCompletionRequest, OTHERS)
    check_model(request.model, served_model)
    names = {"logprobs": "top_logprobs"}
    if request.max_completion_tokens is not None:
        names["max_tokens"] = "max_completion_tokens"
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    values = {**_shared_sampling(request), "max_tokens": limit, "logprobs": _chat_logprobs(request)}
    form, tools = read_form(request), read_tools(request)
    refuse_with_tools(form, tools is not None and tools.choice is not ToolChoice.NONE)
    sampling = checked_sampling(values | {"grammar": form.grammar}, names)
    stream, include_usage = _streaming(request.stream, request.stream_options)
    messages = [plain_message(message, f"messages[{index}]") for index, message in enumerate(request.messages)]
    prompt = NewPrompt(sampling, messages=messages, tools=tools, template=read_template(request, messages))
    grammar_param = "tools" if tools is not None and form.grammar is None else form.param
    return NewRequest((prompt,), stream, include_usage, "messages", len(body), grammar_param=grammar_param)


def parse_completion(body: bytes, served_model: str) -> NewRequest:
    """Check the body of `POST /v1/completions`.

    Raises:
        RequestError: as `parse_chat`.
    """
    request = convert(read_object(body), CompletionRequest, OTHERS)
    check_model(request.model, served_model)
    limit = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    only_prompt = limit == 0 and bool(request.echo)
    logprobs = _completion_logprobs(request)
    of_prompt = logprobs if request.echo else None
    form = read_form(request)
    values = {**_shared_sampling(request), "logprobs": logprobs, "prompt_logprobs": of_prompt, "grammar": form.grammar}
    sampling = checked_sampling(values | {"max_tokens": 1 if only_prompt else limit}, {})
    _check_best_of(request.best_of, sampling.n)
    stream, include_usage = _streaming(request.stream, request.stream_options)
    found = read_prompts(request.prompt, "prompt")
    check_num_answers([sampling] * len(found), "prompt")
    prompts = tuple(NewPrompt(sampling, text, ids, without_answer=only_prompt) for text, ids in found)
    return NewRequest(
        prompts, stream, include_usage, "prompt", len(body), bool(request.echo), grammar_param=form.param
    )  # fmt: skip


def check_model(model: str, served_model: str) -> None:
    """The model must be the one that is served.

    Raises:
        RequestError: it is another one.
    """
    if model != served_model:
        raise RequestError(
            f"the model {model!r} does not exist; this server has {served_model!r}",
            status=404, code="model_not_found", param="model",
        )  # fmt: skip


def checked_sampling(values: Mapping[str, Any], names: Mapping[str, str], path: str = "") -> SamplingParams:
    """Sampling parameters from a client's values, `None` standing for the default.

    Args:
        values: by the names of `SamplingParams`; `stop` may be one string, `top_k` -1 or 0 for all.
        names: the client's names of fields that `SamplingParams` names otherwise.
        path: leads to the object that holds them.

    Raises:
        RequestError: a value is out of its range.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("top_k") in (-1, 0):  # vLLM's, SGLang's and llama.cpp's clients say "all" like this
        del given["top_k"]
    stop = given.get("stop", ())
    given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    given["stop_token_ids"] = tuple(given.get("stop_token_ids", ()))
    try:
        return SamplingParams(**given)
    except ValueError as error:
        field, _, rest = str(error).partition(" ")
        param = path + names.get(field, field)
        raise RequestError(f"{param} {rest}", param=param) from None


def read_prompts(given: str | list[Any], param: str) -> list[tuple[str | None, list[int] | None]]:
    """The prompts in a field that takes text, token ids, or a list of either; each as text or as token ids.

    Raises:
        RequestError: there is none, or one is neither text nor token ids.
    """
    if isinstance(given, str):
        return [(given, None)]
    if not given:
        raise RequestError(f"{param} is empty; it needs at least one prompt, or one token id", param=param)
    if not any(isinstance(item, (str, list)) for item in given):
        return [(None, _token_ids(given, param))]
    prompts: list[tuple[str | None, list[int] | None]] = []
    for index, item in enumerate(given):
        if isinstance(item, str):
            prompts.append((item, None))
        else:
            prompts.append((None, _token_ids(item, f"{param}[{index}]")))
    return prompts


def check_num_answers(sampling: Sequence[SamplingParams], param: str) -> None:
    """One body can't ask for more than the server would give in sensible time.

    Raises:
        RequestError: the prompts (whose parameters these are) ask for too many answers.
    """
    total = sum(params.n for params in sampling)
    if total > MAX_ANSWERS:
        raise RequestError(
            f"{param} holds {len(sampling)} prompts, and with n for each they ask for {total} answers; at most "
            f"{MAX_ANSWERS} are allowed",
            param=param,
        )


def _token_ids(given: Any, param: str) -> list[int]:
    if isinstance(given, list) and not given:
        raise RequestError(f"{param} is empty; it needs at least one token id", param=param)
    try:
        return msgspec.convert(given, list[TokenId])
    except msgspec.ValidationError as error:
        found = explained(str(error), param)
        raise RequestError(f"{found}; give text, or token ids from 0", code="invalid_type", param=found.param) from None


def plain_message(message: ChatMessage, path: str) -> dict[str, Any]:
    """A chat message as the template wants it.

    Raises:
        RequestError: it holds what this server doesn't support.
    """
    for field, remedy in (("function_call", "use tool_calls"), ("audio", "leave it out")):
        if getattr(message, field):
            param = f"{path}.{field}"
            raise RequestError(f"{param} isn't supported by this server; {remedy}", code="unsupported", param=param)
    if isinstance(message.content, list):
        _check_integers(message.content, f"{path}.content")
    plain = {"role": message.role, "content": message.content}
    others = {"name": message.name, "tool_call_id": message.tool_call_id, "tool_calls": plain_calls(message, path)}
    return plain | {name: value for name, value in others.items() if value}


def _check_integers(content: list[Any], param: str) -> None:
    """Parts of a content travel as they came, and messages between processes hold integers of 64 bits."""
    try:
        msgspec.msgpack.encode(content)
    except OverflowError:
        raise RequestError(f"{param} holds an integer of more than 64 bits; send text parts", param=param) from None


def _shared_sampling(fields: Sampling) -> dict[str, Any]:
    """The sampling fields of both OpenAI routes, by the names of `SamplingParams`."""
    return {name: getattr(fields, name) for name in Sampling.__struct_fields__}


def _chat_logprobs(request: ChatCompletionRequest) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise RequestError("top_logprobs is only allowed with logprobs set to true", param="top_logprobs")
    return None


def _completion_logprobs(request: CompletionRequest) -> int | None:
    if request.logprobs is True:
        raise RequestError(
            "logprobs is true; on this route it is a number, of the likeliest tokens that are given at each place",
            code="invalid_type",
            param="logprobs",
        )
    return None if request.logprobs is False else request.logprobs


def _check_best_of(best_of: int | None, n: int) -> None:
    """OpenAI's field for more answers than are given; as many as are given ask for nothing."""
    if best_of not in (None, 1, n):
        raise RequestError(
            f"best_of is {best_of}, and choosing the best of more answers than n isn't supported by this server; "
            "leave it out, or set n to it",
            code="unsupported",
            param="best_of",
        )


def _streaming(stream: bool | None, options: StreamOptions | None) -> tuple[bool, bool]:
    if options is not None and not stream:
        raise RequestError("stream_options is only allowed with stream set to true", param="stream_options")
    if options is not None and options.continuous_usage_stats:
        param = "stream_options.continuous_usage_stats"
        raise RequestError(
            f"{param} isn't supported by this server; leave it out, and include_usage gives the usage at the end",
            code="unsupported",
            param=param,
        )
    return bool(stream), bool(options and options.include_usage)
