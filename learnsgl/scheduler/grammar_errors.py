"""What a client is told of a grammar that can't be used: which part of it is at fault, where that can be found.

`grammar.py` calls it with the words of llguidance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from learnsgl.core import Grammar, GrammarKind
from learnsgl.errors import RequestError

INVALID_GRAMMAR = "invalid_grammar"
"""Error code of a grammar that can't be used."""
_MAX_SHOWN = 400
"""Characters of the library's words that an error repeats; they quote the grammar."""
_NOUNS = {
    GrammarKind.JSON_OBJECT: "the grammar of a JSON object",
    GrammarKind.JSON_SCHEMA: "the JSON schema",
    GrammarKind.REGEX: "the regular expression",
    GrammarKind.LARK: "the grammar",
}
_STOP_REASONS = {
    "NoExtension": "no token of this model could begin the answer",
    "NoExtensionBias": "no token of this model could begin the answer",
    "LexerTooComplex": "its words are too complex to follow",
    "ParserTooComplex": "its rules are too complex to follow",
}
_UNKNOWN_KEYS = re.compile(r"Unimplemented keys: (\[.*?\])")
_WRONG_TYPE = re.compile(r"Invalid type: (.*)")
_STATE = re.compile(r"\n<(?:state|non-verbose).*", re.DOTALL)


def refused(grammar: Grammar, reason: str) -> RequestError:
    """The error for a grammar that can't be used.

    Args:
        grammar: what the client gave.
        reason: why it can't be used, in llguidance's words.
    """
    if reason.startswith("panic"):  # its own failure, with a traceback
        reason = "llguidance fails on it"
    words = " ".join(_STATE.sub("", reason).split()) or "it is malformed"
    words = _STOP_REASONS.get(words, words)
    if len(words) > _MAX_SHOWN:
        words = words[:_MAX_SHOWN] + "…"
    place = _place(grammar, reason) if grammar.kind is GrammarKind.JSON_SCHEMA else None
    where = "" if place is None else f" (at {place})"
    return RequestError(
        f"{_NOUNS[grammar.kind]} can't be used: {words}{where}", code=INVALID_GRAMMAR, param="grammar"
    )  # fmt: skip


def _place(grammar: Grammar, reason: str) -> str | None:
    """The path of the first object of a schema that an error is about; `None` where the words don't tell."""
    try:
        schema = json.loads(grammar.text)
        if unknown := _UNKNOWN_KEYS.search(reason):
            keys = set(json.loads(unknown.group(1)))
            return next((path for path, found in _objects(schema) if keys <= found.keys()), None)
        if wrong := _WRONG_TYPE.search(reason):
            name = wrong.group(1).strip()
            return next((path for path, found in _objects(schema) if name in _types(found)), None)
    except (ValueError, RecursionError):
        return None
    return None


def _types(schema: dict[str, Any]) -> list[Any]:
    types = schema.get("type")
    return types if isinstance(types, list) else [types]


def _objects(schema: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a JSON value with its path, outer ones first."""
    if isinstance(schema, dict):
        yield path, schema
        for name, value in schema.items():
            yield from _objects(value, f"{path}.{name}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from _objects(value, f"{path}[{index}]")
