"""Find stop strings in text that arrives in pieces, and tell how much of it may be the beginning of one.

`detokenize.py` asks it for every piece of text of a request that has stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Pattern:
    """One stop string, matched by the algorithm of Knuth, Morris and Pratt (1977).

    Attributes:
        text: the stop string.
        fallback: for each number of matched characters, how many stay matched when the next one differs.
        matched: how many of its characters the text ends with.
    """

    text: str
    fallback: list[int]
    matched: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the text ends with the stop string."""
        return self.matched == len(self.text)

    @property
    def num_open(self) -> int:
        """Characters at the end of the text that more text may complete to the stop string."""
        return self.fallback[self.matched] if self.is_complete else self.matched

    def advance(self, char: str) -> None:
        """Take one more character of the text."""
        while self.matched and (self.matched == len(self.text) or self.text[self.matched] != char):
            self.matched = self.fallback[self.matched]
        if self.text[self.matched] == char:
            self.matched += 1


def _fallbacks(text: str) -> list[int]:
    """For each prefix of `text`, the length of its longest proper prefix that it also ends with."""
    table = [0] * (len(text) + 1)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = table[length]
        length += text[index] == text[length]
        table[index + 1] = length
    return table


class StopStrings:
    """Watches one request's text for its stop strings; the time is linear in the text.

    The stop string that is complete first wins, as it would if the text came character by character; of several that
    are complete at the same character, the longest. So the result doesn't hang on how text is cut into tokens.

    Attributes:
        num_held: characters at the end of the text so far which may be the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._patterns = [_Pattern(stop, _fallbacks(stop)) for stop in stops]
        self.num_held = 0

    def find_end(self, text: str, *, counts: bool = True) -> tuple[int, str] | None:
        """Take the next piece of the text.

        Args:
            text: the piece.
            counts: whether a stop string that is complete in this piece ends the text; it may have begun in a piece
                where none counted.

        Returns:
            `None` when no stop string is complete. Else the number of characters of `text` up to and including the
            last one of the stop string, and the stop string (which may reach back into earlier pieces).
        """
        for index, char in enumerate(text):
            complete = ""
            for pattern in self._patterns:
                pattern.advance(char)
                if pattern.is_complete and len(pattern.text) > len(complete):
                    complete = pattern.text
            if complete and counts:
                return index + 1, complete
        self.num_held = max((pattern.num_open for pattern in self._patterns), default=0)
        return None
