"""From the body of SGLang's `POST /generate` to a checked `NewRequest`, or to an error that names the field at fault.

`api_server.py` calls it. Fields, names and defaults are SGLang's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from learnsgl.errors import RequestError
from learnsgl.server.body import OtherFields, convert, read_object
from learnsgl.server.new_request import NewPrompt, NewRequest
from learnsgl.server.openai import Int64, TokenId
from learnsgl.server.parse import checked_sampling

GENERATE_MAX_TOKENS = 128
"""SGLang's default for `/generate`."""


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


class GenerateRequest(msgspec.Struct):
    """Body of SGLang's `POST /generate`; exactly one of `text` and `input_ids`."""

    text: str | None = None
    input_ids: list[TokenId] | None = None
    sampling_params: dict[str, Any] | None = None
    stream: bool | None = None


OTHERS = OtherFields(
    {
        "return_logprob": (False,), "logprob_start_len": (-1,), "top_logprobs_num": (0,), "lora_path": ("",),
        "image_data": (), "return_text_in_logprobs": (False,),
    }
)  # fmt: skip
SAMPLING_OTHERS = OtherFields(
    {
        "regex": (), "json_schema": (),
        "ebnf": (), "structural_tag": (), "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,),
        "no_stop_trim": (False,), "stop_regex": (), "custom_params": (),
    }
)  # fmt: skip

_PATH = "sampling_params."
_NAMES = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "seed": "sampling_seed"}


def parse_generate(body: bytes) -> NewRequest:
    """Check the body of `POST /generate`.

    Raises:
        RequestError: it isn't JSON, a field is unknown, unsupported, of the wrong type or out of range.
    """
    request = convert(read_object(body), GenerateRequest, OTHERS)
    if (request.text is None) == (request.input_ids is None):
        given = "neither" if request.text is None else "both"
        raise RequestError(f"{given} of text and input_ids is given; give exactly one", param="text")
    params = convert(request.sampling_params or {}, GenerateSampling, SAMPLING_OTHERS, _PATH)
    theirs = {name: our for our, name in _NAMES.items()}
    values = {theirs.get(name, name): value for name, value in msgspec.structs.asdict(params).items()}
    sampling = checked_sampling(values, _NAMES, _PATH)
    prompt = NewPrompt(sampling, request.text, request.input_ids)
    param = "input_ids" if request.text is None else "text"
    return NewRequest((prompt,), bool(request.stream), False, param, len(body), sampling_path=_PATH)
