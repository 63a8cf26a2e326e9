"""From the bytes of a body to a schema's object, or to an error that names the field at fault.

The parsers call it. A field that nobody knows is refused, as the OpenAI API does it: a misspelt `temprature` would
otherwise change the answer in silence. A field that OpenAI, vLLM or SGLang know and this server doesn't support is
accepted as long as its value asks for nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from learnsgl.errors import RequestError

_PATH = re.compile(r"^(.*?)(?: - at (?:`(key)` in )?`\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MAX_SHOWN = 40
"""Characters of a client's own words that an error repeats."""

Schema = TypeVar("Schema", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class OtherFields:
    """What becomes of fields that aren't in a schema.

    Attributes:
        neutral: fields that aren't supported, with the values (beside null) that ask for nothing.
        ignored: fields that are accepted with any value.
    """

    neutral: Mapping[str, tuple[Any, ...]]
    ignored: Collection[str] = ()


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Where a name comes twice, the last one counts.

    Raises:
        RequestError: it isn't JSON, or no object.
    """
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise RequestError(f"the body isn't valid JSON: {reason}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object with the request's fields", code="invalid_json")
    return fields


def convert(fields: Mapping[str, Any], schema: type[Schema], others: OtherFields, path: str = "") -> Schema:
    """Check names and types of an object's fields; `path` leads to the object.

    Raises:
        RequestError: a field is missing, unknown, not supported, or of the wrong type.
    """
    known = set(schema.__struct_encode_fields__)  # `msgspec.structs.fields` would evaluate every annotation again
    for name, value in fields.items():
        if name not in known:
            _check_other_field(name, value, known, others, path)
    mine = {name: value for name, value in fields.items() if name in known}
    try:
        return msgspec.convert(mine, schema, str_keys=True)
    except msgspec.ValidationError as error:
        raise explained(str(error), path) from None


def shown(name: str) -> str:
    """A client's own word, short enough for an error."""
    return name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…"


def explained(message: str, path: str = "") -> RequestError:
    """The error for the client, from msgspec's words and its place below `path`."""
    match = _PATH.match(message)
    assert match is not None, "the pattern matches any text"
    words, is_key, place = match.groups()
    where = _joined(path, (place or "").replace("[...]", ""))  # values of an object have no number
    if missing := _MISSING.match(words):
        param = f"{where}.{missing.group(1)}" if place else path + missing.group(1)
        return RequestError(f"the field {param} is missing", code="missing_required_parameter", param=param)
    if unknown := _UNKNOWN.match(words):
        param = f"{where}.{shown(unknown.group(1))}"
        return RequestError(f"unknown field {param}", code="unknown_parameter", param=param)
    if "min_length" in words or words.startswith("Expected `array` of length >= 1"):
        return RequestError(f"{where} is empty; it needs at least one element", param=where)
    code = "invalid_value" if any(sign in words for sign in ("<=", ">=", "length")) else "invalid_type"
    told = f"{where}: {words[0].lower()}{words[1:]}" + (" as a name in it" if is_key else "")
    return RequestError(told, code=code, param=where)


def _joined(path: str, place: str) -> str:
    return path.removesuffix(".") + place if place.startswith("[") else path + place


def _check_other_field(name: str, value: Any, known: set[str], others: OtherFields, path: str) -> None:
    if name in others.ignored:
        return
    if name in others.neutral:
        allowed = others.neutral[name]
        if value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            return
        words = " or ".join(["leave it out", *(f"set it to {msgspec.json.encode(one).decode()}" for one in allowed)])
        raise RequestError(
            f"{path}{name} isn't supported by this server; {words}", code="unsupported", param=path + name
        )
    # a word of megabytes would be compared for minutes
    close = difflib.get_close_matches(name, [*known, *others.neutral], n=1) if len(name) <= _MAX_SHOWN else []
    hint = f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"
    raise RequestError(f"unknown field {path}{shown(name)}{hint}", code="unknown_parameter", param=path + shown(name))
