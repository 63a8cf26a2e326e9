"""What a person's terminal is given: text that a model wrote, made harmless.

`learnsgl generate`, `learnsgl chat` and `learnsgl trace show` use it. A model can write any character, also those that
move the cursor, change colours or set the window's title. Colours of our own are added here too, to text that is
harmless by then.
"""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from typing import TextIO

_KEPT = "\n\t"
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT}


def harmless(text: str) -> str:
    """The text with U+FFFD for each control character but line breaks and tabs."""
    return text.translate(_CONTROLS)


def utf8_output() -> TextIO:
    """Standard output, which takes every character from now on, whatever the locale says."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdout


class Style(StrEnum):
    """How a piece of text looks on a terminal: the numbers of an ANSI escape sequence (SGR)."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    BLUE = "34"
    MAGENTA = "35"
    CYAN = "36"


def styled(text: str, style: Style, *, color: bool) -> str:
    """The text in a style, where colours are wanted."""
    return f"\x1b[{style}m{text}\x1b[0m" if color and style and text else text
