"""What a person's terminal is given: text that a model wrote, made harmless.

`learnsgl generate` and `learnsgl chat` use it. A model can write any character, also those that move the cursor,
change colours or set the window's title.
"""

from __future__ import annotations

import io
import sys
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
