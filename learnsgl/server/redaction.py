"""Command lines as they may stand in a recording, which is given to others: without keys.

`launch.py` calls it for the manifest of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

from learnsgl.config import SECRET, secret_flags


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line in which the values of secret options are blotted out."""
    flags = secret_flags()
    shown: list[str] = []
    for word in words:
        flag, equals, _ = word.partition("=")
        is_value = bool(shown) and shown[-1] in flags
        shown.append(SECRET if is_value else f"{flag}={SECRET}" if equals and flag in flags else word)
    return shown
