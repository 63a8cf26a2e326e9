"""Prompts of a known number of tokens, for a server whose tokenizer this program doesn't have.

A prompt is planned as symbols: numbers below an alphabet's size, one a token. Where the server takes token ids, a
symbol becomes an id; where it takes text only, a word of four letters, and two questions to the server tell how many of
its tokens such a word is and how many its template adds. Prompts that share leading symbols share leading tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

_WORDS_TEXT = """
also area away back base best body book both call care case city come cost data days deal door down
each east even ever face fact fall feel file find fire five food form four free full game girl give
good hand hard have head hear help here high hold home hope hour idea into just keep kind know land
last late left less life like line list live long look lost love made main make many mean meet mind
more most move much must name near need news next nine only open over page part past plan play real
rest road rock room same seem self send ship show side some soon stay step stop such sure take talk
team tell term than that them then they this time told town true turn unit very wait walk wall want
week well west what when wide wife will wind with word work year your
"""
WORDS = tuple(_WORDS_TEXT.split())
"""Each with the space before it is one token in the vocabularies of today's models, and five in a byte tokenizer."""
_FILLER = "."


class Form(Protocol):
    """How symbols become a prompt."""

    @property
    def alphabet(self) -> int:
        """Symbols lie below this."""

    def num_symbols(self, num_tokens: int) -> int:
        """Symbols of a prompt of so many tokens."""

    def num_shared(self, num_tokens: int) -> int:
        """Leading symbols that prompts must have in common to share so many leading tokens."""

    def prompt(self, symbols: Sequence[int], num_tokens: int) -> str | list[int]:
        """The prompt that a request sends."""


class IdsForm(msgspec.Struct, frozen=True):
    """Token ids, of which the low tenth is left out: special tokens lie there.

    Attributes:
        vocab_size: ids lie below this.
    """

    vocab_size: int

    @property
    def alphabet(self) -> int:
        """Ids that are used."""
        return self.vocab_size - self.vocab_size // 10

    def num_symbols(self, num_tokens: int) -> int:
        """One a token."""
        return num_tokens

    def num_shared(self, num_tokens: int) -> int:
        """One a token."""
        return num_tokens

    def prompt(self, symbols: Sequence[int], num_tokens: int) -> list[int]:
        """The ids."""
        first = self.vocab_size // 10
        return [first + symbol for symbol in symbols]


class WordsForm(msgspec.Struct, frozen=True):
    """Words of the same length.

    Attributes:
        per_word: tokens of a word with its space.
        overhead: tokens that the server adds to every prompt, such as those of a chat template.
    """

    per_word: float = 1.0
    overhead: float = 0.0

    @property
    def alphabet(self) -> int:
        """Words that there are."""
        return len(WORDS)

    def num_symbols(self, num_tokens: int) -> int:
        """At least one, also where the template alone is longer."""
        return max(1, int((num_tokens - self.overhead) / self.per_word + 1e-6))

    def num_shared(self, num_tokens: int) -> int:
        """The template's own tokens are shared anyway, and count first."""
        return max(0, int((num_tokens - self.overhead) / self.per_word + 1e-6))

    def prompt(self, symbols: Sequence[int], num_tokens: int) -> str:
        """The text; where a word is several tokens, dots fill up what is less than a word."""
        text = "".join(f" {WORDS[symbol]}" for symbol in symbols)
        rest = num_tokens - self.overhead - self.per_word * len(symbols)
        return text + _FILLER * max(0, int(rest + 1e-6)) if self.per_word >= 2 else text


def calibrated(counts: tuple[int, int], num_words: tuple[int, int]) -> WordsForm:
    """The form for a server that counted two prompts of words.

    Args:
        counts: tokens of the two prompts.
        num_words: words that they had, the first fewer.
    """
    per_word = (counts[1] - counts[0]) / (num_words[1] - num_words[0])
    if per_word <= 0:  # it doesn't count prompts
        return WordsForm()
    return WordsForm(per_word, max(0.0, counts[0] - per_word * num_words[0]))
