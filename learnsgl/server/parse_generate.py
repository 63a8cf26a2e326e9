"""From the body of SGLang's `POST /generate` to a checked `NewRequest`, or to an error that names the field at fault.

`api_server.py` calls it. Fields, names and defaults are SGLang's. With a list of prompts, a field is one value for all
of them or a list with one for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from learnsgl.core import SamplingParams
from learnsgl.errors import RequestError
from learnsgl.server.body import OtherFields, convert, read_object
from learnsgl.server.new_request import GenerateOptions, NewPrompt, NewRequest
from learnsgl.server.openai import Int64
from learnsgl.server.parse import check_num_answers, checked_sampling, read_prompts
from learnsgl.server.response_format import read_generate_form

GENERATE_MAX_TOKENS = 128
"""SGLang's default for `/generate`."""
MAX_ID_LEN = 256
"""Most characters of an id that a client gives its request."""

Value = TypeVar("Value")


class GenerateSampling(msgspec.Struct):
    """SGLang's sampling parameters."""

    temperature: float | None = None
    top_k: Int64 | None = None
    top_p: float | None = None
    min_p: float | None = None
    sampling_seed: Int64 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Int64] | None = None
    ignore_eos: bool | None = None
    max_new_tokens: Int64 | None = GENERATE_MAX_TOKENS
    min_new_tokens: Int64 | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[Int64, float] | None = None
    n: Int64 | None = None
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None


class GenerateRequest(msgspec.Struct):
    """Body of SGLang's `POST /generate`; exactly one of `text` and `input_ids`."""

    text: str | list[str] | None = None
    input_ids: list[Any] | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    stream: bool | None = None
    rid: str | list[str] | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: Int64 | list[Int64] | None = None
    top_logprobs_num: Int64 | list[Int64] | None = None
    return_text_in_logprobs: bool | None = None


OTHERS = OtherFields({"lora_path": ("",), "image_data": ()})
SAMPLING_OTHERS = OtherFields(
    {
        "structural_tag": (), "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,), "no_stop_trim": (False,), "stop_regex": (), "custom_params": (),
    }
)  # fmt: skip

GRAMMAR_FIELDS = ("json_schema", "regex", "ebnf")
"""Fields that hold the answer to a grammar."""

_PATH = "sampling_params."
_NAMES = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "seed": "sampling_seed"}
_THEIRS = {name: our for our, name in _NAMES.items()}


def parse_generate(body: bytes) -> NewRequest:
    """Check the body of `POST /generate`.

    Raises:
        RequestError: it isn't JSON, a field is unknown, unsupported, of the wrong type or out of range.
    """
    request = convert(read_object(body), GenerateRequest, OTHERS)
    param = "input_ids" if request.text is None else "text"
    given = request.input_ids if request.text is None else request.text
    if given is None or (request.text is not None and request.input_ids is not None):
        which = "neither" if given is None else "both"
        raise RequestError(f"{which} of text and input_ids is given; give exactly one", param="text")
    found = read_prompts(given, param)
    is_list = isinstance(given, list) and (param == "text" or isinstance(given[0], list))
    starts, tops = _logprobs(request, len(found))
    objects = _each(request.sampling_params or {}, len(found), "sampling_params")
    sampling, are_scored, grammar_params = [], [], []
    for index, (params, start, num_top) in enumerate(zip(objects, starts, tops, strict=True)):
        path = f"sampling_params[{index}]." if isinstance(request.sampling_params, list) else _PATH
        are_scored.append(params.get("max_new_tokens") == 0)
        sampling.append(_sampling(params, path, start, num_top))
        grammar_params += [path + name for name in GRAMMAR_FIELDS if params.get(name) is not None]
    check_num_answers(sampling, param)
    prompts = tuple(
        NewPrompt(params, text, ids, without_answer=is_scored)
        for params, (text, ids), is_scored in zip(sampling, found, are_scored, strict=True)
    )
    is_list = is_list or any(params.n > 1 for params in sampling)
    options = GenerateOptions(
        is_list, _ids(request.rid, len(found)), tuple(starts), bool(request.return_text_in_logprobs)
    )
    stream = bool(request.stream)
    return NewRequest(
        prompts, stream, False, param, len(body), sampling_path=_PATH, generate=options,
        grammar_param=grammar_params[0] if grammar_params else _PATH,
    )  # fmt: skip


def _sampling(params: Mapping[str, Any], path: str, start: int | None, num_top: int) -> SamplingParams:
    """The sampling parameters of one prompt, whose log-probabilities are wanted from token `start` on."""
    fields = convert(params, GenerateSampling, SAMPLING_OTHERS, path)
    given = msgspec.structs.asdict(fields)
    values = {_THEIRS.get(name, name): value for name, value in given.items() if name not in GRAMMAR_FIELDS}
    values["grammar"] = read_generate_form(fields.json_schema, fields.regex, fields.ebnf, path)
    if fields.max_new_tokens == 0:
        values["max_tokens"] = 1
    if start is not None:
        values["logprobs"] = num_top
        values["prompt_logprobs"] = num_top if start >= 0 else None
    return checked_sampling(values, _NAMES, path)


def _logprobs(request: GenerateRequest, num_prompts: int) -> tuple[list[int | None], list[int]]:
    """From which token on each prompt's log-probabilities are wanted (-1: only its answer's), and with how many others.

    Returns:
        Both [num_prompts]; `None` where no log-probabilities are wanted.
    """
    wanted = _each(request.return_logprob or False, num_prompts, "return_logprob")
    starts = _each(
        -1 if request.logprob_start_len is None else request.logprob_start_len, num_prompts, "logprob_start_len"
    )
    tops = _each(request.top_logprobs_num or 0, num_prompts, "top_logprobs_num")
    for start in starts:
        if start < -1:
            raise RequestError(
                f"logprob_start_len is {start}; it must be at least 0, or -1 for the answer's tokens only",
                param="logprob_start_len",
            )
    for num_top in tops:
        _check_num_top(num_top)
    return [start if is_wanted else None for is_wanted, start in zip(wanted, starts, strict=True)], tops


def _check_num_top(num_top: int) -> None:
    checked_sampling({"logprobs": num_top}, {"logprobs": "top_logprobs_num"})


def _ids(rid: str | list[str] | None, num_prompts: int) -> tuple[str, ...] | None:
    """What the client calls its prompts. One name for several prompts gets their numbers behind it."""
    if rid is None:
        return None
    if isinstance(rid, str) and num_prompts > 1:
        rid = [f"{rid}_{index}" for index in range(num_prompts)]
    names = _each(rid, num_prompts, "rid")
    for name in names:
        if not 0 < len(name) <= MAX_ID_LEN:
            raise RequestError(f"rid has {len(name)} characters; it must have 1 to {MAX_ID_LEN}", param="rid")
    if len(set(names)) < len(names):
        raise RequestError("rid names two prompts alike; each needs a name of its own", param="rid")
    return tuple(names)


def _each(given: Value | list[Value], num_prompts: int, param: str) -> list[Value]:
    """One value for each prompt, from one for all or from a list."""
    if not isinstance(given, list):
        return [given] * num_prompts
    if len(given) != num_prompts:
        raise RequestError(
            f"{param} is a list of {len(given)} for {num_prompts} prompts; give one for each, or one for all",
            param=param,
        )
    return given
