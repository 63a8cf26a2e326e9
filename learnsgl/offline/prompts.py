"""From what a caller of `LLM.generate` gives to one checked prompt each, and sampling parameters for it.

A prompt is text, token ids, or a chat. Only the form is checked here, before any work begins. Whether a prompt fits the
model is found where the server finds it, by the tokenizer and the scheduler, and then concerns that one prompt alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from learnsgl.core import SamplingParams
from learnsgl.errors import RequestError

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""A text, its token ids, or a chat: a list of messages with `role` and `content`."""

SamplingArgument = SamplingParams | Mapping[str, Any] | Sequence[SamplingParams | Mapping[str, Any]] | None
"""The same for all prompts, or one for each; a mapping has fields of `SamplingParams`. `None` means the defaults."""

_SAMPLING = "sampling_params"
_ALLOWED_SAMPLING = "a SamplingParams, or a dict of its fields such as {'temperature': 0, 'max_tokens': 64}"
_ALLOWED = "a text, a list of token ids, or a chat (a list of messages such as {'role': 'user', 'content': '...'})"


@dataclass(frozen=True, slots=True)
class PromptContent:
    """One prompt; exactly one attribute is set."""

    text: str | None = None
    input_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None


def read_prompts(prompts: Prompt | Sequence[Prompt]) -> list[PromptContent]:
    """The prompts of a call, whichever way they are given.

    Args:
        prompts: one prompt, or a sequence of prompts, which need not be of one kind.

    Raises:
        RequestError: something in it is no prompt; it is named.
    """
    if isinstance(prompts, str):
        return [PromptContent(text=prompts)]
    items = _list(prompts, "prompts")
    if items and (isinstance(items[0], Mapping) or _is_int(items[0])):  # one chat, or one prompt's token ids
        return [read_prompt(items, "prompts")]
    return [read_prompt(item, f"prompts[{place}]") for place, item in enumerate(items)]


def read_prompt(prompt: Any, name: str = "prompt") -> PromptContent:
    """One prompt.

    Args:
        prompt: the prompt.
        name: what an error calls it.

    Raises:
        RequestError: it isn't a prompt.
    """
    if isinstance(prompt, str):
        return PromptContent(text=prompt)
    items = _list(prompt, name)
    if not items:
        raise RequestError(f"{name} is empty; give {_ALLOWED}", param=name)
    if isinstance(items[0], Mapping):
        for place, message in enumerate(items):
            if not isinstance(message, Mapping):
                raise _wrong(f"{name}[{place}]", message, "a message, as those before it are")
        return PromptContent(messages=[dict(message) for message in items])
    for place, token in enumerate(items):
        if not _is_int(token):
            raise _wrong(f"{name}[{place}]", token, "a token id" if place else _ALLOWED)
        if not 0 <= int(token) < 2**31:
            raise RequestError(f"{name}[{place}] is {token}; token ids go from 0 to 2147483647", param=name)
    return PromptContent(input_ids=[int(token) for token in items])


def read_sampling(sampling: SamplingArgument, num_prompts: int) -> list[SamplingParams]:
    """Sampling parameters for each prompt.

    Args:
        sampling: the same for all, one for each prompt, or `None`: the defaults.
        num_prompts: prompts of the call.

    Raises:
        RequestError: there isn't one for each prompt, or it isn't sampling parameters.
    """
    if sampling is None:
        return [SamplingParams()] * num_prompts
    if isinstance(sampling, (SamplingParams, Mapping)):
        return [_read_one_sampling(sampling, _SAMPLING)] * num_prompts
    if isinstance(sampling, (str, bytes)) or not isinstance(sampling, Iterable):
        raise _wrong(_SAMPLING, sampling, f"{_ALLOWED_SAMPLING}, or a list with one of these for each prompt")
    given = list(sampling)
    if len(given) != num_prompts:
        raise RequestError(
            f"sampling_params has {len(given)} elements for {num_prompts} prompts; give one for each prompt, or a "
            "single SamplingParams for all",
            param=_SAMPLING,
        )
    return [_read_one_sampling(one, f"{_SAMPLING}[{place}]") for place, one in enumerate(given)]


def _read_one_sampling(given: Any, name: str) -> SamplingParams:
    if isinstance(given, Mapping):
        return _sampling_of_fields(given, name)
    if not isinstance(given, SamplingParams):
        raise _wrong(name, given, _ALLOWED_SAMPLING)
    if isinstance(given.stop, str):
        raise RequestError(
            f"stop of {name} is a text; give a tuple of texts, as in stop=({given.stop!r},)", param=_SAMPLING
        )
    return given


def _sampling_of_fields(given: Mapping[Any, Any], name: str) -> SamplingParams:
    """What `SamplingParams(**given)` would be, with every type checked; a single stop string may stand for itself."""
    known = [field.name for field in msgspec.structs.fields(SamplingParams)]
    for field in given:
        if field not in known:
            close = difflib.get_close_matches(str(field), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise RequestError(
                f"{name} has the field {field!r}, which SamplingParams hasn't{hint}; there are: {', '.join(known)}",
                param=_SAMPLING,
            )
    fields = {**given, "stop": [given["stop"]]} if isinstance(given.get("stop"), str) else dict(given)
    try:
        return msgspec.convert(fields, SamplingParams)
    except msgspec.ValidationError as error:  # a value of another type, or out of its range
        raise RequestError(f"{name}: {error}", param=_SAMPLING) from error


def _list(given: Any, name: str) -> list[Any]:
    if hasattr(given, "tolist"):  # a numpy array or a tensor
        given = given.tolist()
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise _wrong(name, given, _ALLOWED)
    return list(given)


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _wrong(name: str, given: Any, allowed: str) -> RequestError:
    return RequestError(f"{name} is of type {type(given).__name__}; it must be {allowed}", param=name)
