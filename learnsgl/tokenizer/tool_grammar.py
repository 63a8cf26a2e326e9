"""Grammars of answers that hold tool calls, in llguidance's variant of Lark.

`tool_forms.py` has one for each form of call. Whatever a grammar allows, the form's parser reads as calls whose
arguments are objects that the functions' schemas allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""JSON on one line, with one space or none behind a comma or a colon: what models are trained on, and a model that is
unsure can't go on with white space for ever."""
_COMBINED = ("patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if")
_TEXT = r"TEXT: /(.|\n)*/"


@dataclass(frozen=True)
class FunctionRule:
    """A function that an answer may call.

    Attributes:
        name: of letters, digits, `_` and `-`.
        schema: of its arguments, as JSON text for llguidance's `%json`.
    """

    name: str
    schema: str


@dataclass(frozen=True)
class CallTokens:
    """Tokens that no text gives in llguidance, which reaches them by number only.

    Attributes:
        begin: the token of the mark with which a call begins; `None` where that mark is plain text.
        end: likewise, of the mark with which it ends.
        optional: a token that may stand before a bare call.
        plain: tokens that aren't special and may stand in any text, such as `<think>`.
    """

    begin: int | None = None
    end: int | None = None
    optional: int | None = None
    plain: tuple[int, ...] = ()


def schema_of(function: dict[str, Any]) -> str:
    """The schema of a function's arguments, as JSON text for `%json`.

    Arguments are an object. Where the schema names its properties, and neither speaks of others nor needs any, there
    are no others. A function that isn't `strict` may use keywords that the grammar can't enforce; they are left to the
    model.
    """
    given = function.get("parameters") or {"properties": {}}
    style = _JSON_STYLE if function.get("strict") else _JSON_STYLE | {"lenient": True}
    schema: dict[str, Any] = {"x-guidance": style, "type": "object"}
    if _names_all(given):
        schema["additionalProperties"] = False
    return msgspec.json.encode(schema | {name: value for name, value in given.items() if name != "x-guidance"}).decode()


def content_schema(given: dict[str, Any]) -> str:
    """The schema of an answer that is JSON, as JSON text for `%json`."""
    return msgspec.json.encode(given | {"x-guidance": _JSON_STYLE}).decode()


def _names_all(schema: dict[str, Any]) -> bool:
    """Whether a schema's `properties` are all that it speaks of."""
    properties, required = schema.get("properties"), schema.get("required", ())
    if not isinstance(properties, dict) or not isinstance(required, (list, tuple)):
        return False
    named = all(isinstance(name, str) and name in properties for name in required)
    return named and not any(keyword in schema for keyword in _COMBINED)


def marked(
    functions: Sequence[FunctionRule], needs_call: bool, max_calls: int, begin: str, end: str, tokens: CallTokens
) -> str:
    """Calls between two marks; unless a call is needed, text may stand before them, or in their place.

    Args:
        functions: those that can be called, at least one.
        needs_call: whether the answer begins with a call.
        max_calls: most calls.
        begin: the mark before a call.
        end: the mark behind it.
        tokens: the tokens of these marks, and others that text may hold.
    """
    rules = _marked_calls(functions, max_calls, begin, end, tokens)
    if needs_call:
        return _grammar("start: begin calls", *rules)
    token = "" if tokens.begin is None else f" | TEXT? <[{tokens.begin}]>"
    plain = _plain(tokens)
    return _grammar(
        "start: text | lead calls",
        f"text: TEXT? ({plain} TEXT?)*" if plain else "text: TEXT?",
        f"lead: (TEXT? {plain})* (written{token})" if plain else f"lead: written{token}",
        # lazy: it ends at the first mark, and from there on only calls are left
        f"written[lazy]: TEXT {_quoted(begin)}",
        _TEXT,
        *rules,
    )


def marked_or_json(
    functions: Sequence[FunctionRule], schema: str, max_calls: int, begin: str, end: str, tokens: CallTokens
) -> str:
    """Calls between two marks and nothing else, or JSON that `schema` allows; the arguments are those of `marked`."""
    rules = _marked_calls(functions, max_calls, begin, end, tokens)
    return _grammar("start: content | begin calls", f"content: %json {schema}", *rules)


def bare(functions: Sequence[FunctionRule], needs_call: bool, tokens: CallTokens) -> str:
    """One call that is the whole answer; unless a call is needed, any text that doesn't begin like one.

    Args:
        functions: those that can be called, at least one.
        needs_call: whether the answer is a call.
        tokens: a token that may stand before the call, and others that text may hold.
    """
    rules = _bodies(functions, _bare_head)
    if needs_call:
        return _grammar("start: body", *rules)
    ahead = "" if tokens.optional is None else f"<[{tokens.optional}]>? "
    plain = _plain(tokens)
    names = "|".join(function.name for function in functions)
    return _grammar(
        f"start: {ahead}body | text",
        f"text: OTHER? ({plain} TEXT?)*" if plain else "text: OTHER?",
        # what begins like a call is one, or it couldn't be told from the text
        f"OTHER: TEXT & ~/{_bare_begin(f'({names})', '*')}(.|\\n)*/",
        _TEXT,
        *rules,
    )


def _marked_calls(
    functions: Sequence[FunctionRule], max_calls: int, begin: str, end: str, tokens: CallTokens
) -> list[str]:
    return [
        f"calls: call (WS? begin call){{0,{max_calls - 1}}}" if max_calls > 1 else "calls: call",
        "call: WS? body WS? end",
        f"begin: {_mark(begin, tokens.begin)}",
        f"end: {_mark(end, tokens.end)}",
        r"WS: /[ \n]{1,2}/",
        *_bodies(functions, _marked_head),
    ]


def _marked_head(name: str) -> str:
    return rf'\{{ ?"name": ?"{name}", ?"arguments": ?'


def _bare_begin(name: str, repeat: str) -> str:
    """A call up to its function's name, as a regular expression; white space comes as often as `repeat` says."""
    space = rf"[ \t\r\n]{repeat}"
    kind = space.join(['"type"', ":", '"function"', ",", ""])
    return space.join(["", r"\{", f'({kind})?"name"', ":", f'"{name}"'])


def _bare_head(name: str) -> str:
    repeat = "{0,8}"
    return rf"[ \t\r\n]{repeat}".join([_bare_begin(name, repeat), ",", '"parameters"', ":", ""])


def _bodies(functions: Sequence[FunctionRule], head: Callable[[str], str]) -> list[str]:
    choices = " | ".join(f"body_{index}" for index in range(len(functions)))
    bodies = [
        rf"body_{index}: /{head(function.name)}/ %json {function.schema} /[ \n]?\}}/"
        for index, function in enumerate(functions)
    ]
    return [f"body: {choices}", *bodies]


def _grammar(*rules: str) -> str:
    return "\n".join(["%llguidance {}", *rules, ""])


def _mark(text: str, token: int | None) -> str:
    return _quoted(text) if token is None else f"{_quoted(text)} | <[{token}]>"


def _plain(tokens: CallTokens) -> str:
    return f"<[{','.join(map(str, tokens.plain))}]>" if tokens.plain else ""


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
