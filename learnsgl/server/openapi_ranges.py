"""The ranges of the fields in the OpenAPI document, from the numbers that the checks themselves use.

`openapi.py` calls `add_ranges` for each body. `core.SamplingParams` checks a request after its types are known, so the
schemas from which the document is made hold the types alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from learnsgl.core import (
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_STOP_LEN,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    RANGES,
    ROLES,
)
from learnsgl.server.operator_routes import LEVELS

Schema = dict[str, Any]

_NUMBERS = ("integer", "number")
_OUR_NAMES = {
    "top_logprobs": "logprobs", "top_logprobs_num": "logprobs", "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "best_of": "n",
}  # fmt: skip
"""What `SamplingParams` calls fields that clients name otherwise."""
_BOUNDS: Mapping[str, Mapping[str, float]] = {
    **{name: {"minimum": least, "maximum": greatest} for name, (least, greatest) in RANGES.items()},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1},
    "max_tokens": {"minimum": 0},
    "min_tokens": {"minimum": 0},
    "logprob_start_len": {"minimum": -1},
}
_LISTS: Mapping[str, Mapping[str, Any]] = {
    "stop": {"minItems": 0, "maxItems": MAX_STOP_STRINGS, "items": {"minLength": 1, "maxLength": MAX_STOP_LEN}},
    "stop_token_ids": {"maxItems": MAX_STOP_TOKENS, "items": {"minimum": 0}},
}
_ENUMS: Mapping[str, Sequence[str]] = {"role": ROLES, "level": LEVELS}
_STRINGS: Mapping[str, Mapping[str, int]] = {"stop": {"minLength": 1, "maxLength": MAX_STOP_LEN}}


def add_ranges(schemas: Mapping[str, Schema], *, max_choices: int) -> None:
    """Write the ranges into the schemas of the bodies, and of what is in them.

    Args:
        schemas: the document's components, by name.
        max_choices: the largest `n` that this server takes.
    """
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            for kind in _kinds(field):
                _narrow(kind, name)
                if _OUR_NAMES.get(name, name) == "n":
                    kind["maximum"] = max_choices
                if name in _ENUMS:
                    kind["enum"] = list(_ENUMS[name])


def _kinds(field: Schema) -> Iterator[Schema]:
    """The types that a field may have, but null."""
    for kind in field.get("anyOf", [field]):
        if kind.get("type") not in ("null", None):
            yield kind


def _narrow(kind: Schema, name: str) -> None:
    """Add what is known of a field to one of its types."""
    our_name = _OUR_NAMES.get(name, name)
    bounds = _BOUNDS.get(our_name, {})
    if kind["type"] in _NUMBERS:
        kind |= bounds
    elif kind["type"] == "boolean" and bounds:
        kind |= {"const": False}  # "none", where a number is what is meant
    elif kind["type"] == "string":
        kind |= _STRINGS.get(name, {})
    elif kind["type"] == "array":
        found = _LISTS.get(name, {"items": bounds} if bounds else {})
        items = {**kind.get("items", {}), **found.get("items", {})}
        kind |= found
        kind |= {"items": items} if items else {}
    elif name == "logit_bias":
        kind["maxProperties"] = MAX_BIASED_TOKENS
        kind["additionalProperties"] |= {"minimum": -MAX_BIAS, "maximum": MAX_BIAS}
