"""How the beginning and the end of a tool call are found in text that is still coming.

`tool_parser.py` asks: does the text begin as a call does, and where do its arguments end? Each answer may be "not
known yet".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import msgspec

NAME_PATTERN = r"[a-zA-Z0-9_-]{1,64}"
"""What a function may be called, as in the OpenAI API."""
SPACE = " \t\r\n"
"""JSON's white space."""

MAX_DEPTH = 64
"""Most levels of a JSON value that comes into a prompt; templates write values level by level, and could not go on."""

_NAME = re.compile(NAME_PATTERN)
_STRUCTURE = re.compile(r'["{}\[\]]')
_STRING_END = re.compile(r'["\\]')


class Fit(Enum):
    """How a text stands to what is expected at its beginning."""

    WHOLE = 1
    PARTIAL = 2
    """It ends too early to say."""
    NONE = 3


class Head(NamedTuple):
    """What was found at the beginning of a text.

    Attributes:
        fit: whether it is what was expected.
        length: its characters, where all of it is there.
        name: the function that it names, likewise.
    """

    fit: Fit
    length: int = 0
    name: str = ""


def read_head(text: str, parts: Sequence[str | None]) -> Head:
    """Compare the beginning of `text` with `parts`, before each of which white space may stand.

    Args:
        text: begins with them, or doesn't, or ends too early.
        parts: literal texts, and `None` in the place of the function's name, which stands between quotes.
    """
    place, name = 0, ""
    for part in parts:
        while place < len(text) and text[place] in SPACE:
            place += 1
        if part is not None:
            given = text[place : place + len(part)]
            if given != part:  # shorter only where the text ends
                return Head(Fit.PARTIAL if part.startswith(given) else Fit.NONE)
            place += len(part)
            continue
        found = _NAME.match(text, place + 1)
        end = place + 1 if found is None else found.end()
        if text[place : place + 1] not in ("", '"') or (end < len(text) and (found is None or text[end] != '"')):
            return Head(Fit.NONE)
        if found is None or end >= len(text):
            return Head(Fit.PARTIAL)
        name, place = found.group(), end + 1
    return Head(Fit.WHOLE, place, name)


class JsonObject:
    """Finds the end of a JSON object that comes in pieces. It looks at brackets and strings, and not at the rest."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end_in(self, text: str) -> int | None:
        """Where the object ends in the next piece, as the number of its characters; `None`: not yet."""
        place = 0
        while place < len(text):
            if self._escaped:
                self._escaped, place = False, place + 1
                continue
            found = (_STRING_END if self._in_string else _STRUCTURE).search(text, place)
            if found is None:
                return None
            sign, place = found.group(), found.end()
            if sign == "\\":
                self._escaped = True
            elif sign == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if sign in "{[" else -1
                if self._depth == 0:
                    return place
        return None


def num_undecided(text: str, mark: str) -> int:
    """How many of the last characters may belong to a mark that is still to come: white space, and the mark's start."""
    for length in range(min(len(mark) - 1, len(text)), -1, -1):
        if text.endswith(mark[:length]):
            before = text[: len(text) - length]
            return len(text) - len(before.rstrip(SPACE))
    return 0


def arguments_of(text: str) -> dict[str, Any] | None:
    """The arguments of a past call as an object, and no text as an empty one; `None` where they are no JSON object."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not is_deep(value) else None


def is_deep(value: Any, num_levels: int = MAX_DEPTH) -> bool:
    """Whether a JSON value has more than so many levels."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return num_levels == 0 or any(is_deep(one, num_levels - 1) for one in inner)
