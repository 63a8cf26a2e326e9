"""Prompts for benchmarks: random token ids of wanted lengths, the same for every engine, new in every round.

New in every round, so that no prefix cache knows them; from a seed, so that two runs measure the same.
"""

from __future__ import annotations

import msgspec
import numpy as np

from learnsgl.errors import OptionError


class Lengths(msgspec.Struct, frozen=True):
    """A range of lengths in tokens, both ends included."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, option: str) -> Lengths:
        """Read `128` or `64:256`.

        Raises:
            OptionError: it is neither, or no length of at least one token.
        """
        parts = text.split(":")
        if len(parts) <= 2 and all(part.isdecimal() for part in parts):
            low, high = int(parts[0]), int(parts[-1])
            if 1 <= low <= high:
                return cls(low, high)
        raise OptionError(f"{option} is {text!r}; give a number of tokens (128), or two with a colon (64:256)")

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


class Request(msgspec.Struct, frozen=True):
    """One request of a workload: token ids, and how many tokens are to be generated."""

    prompt_ids: list[int]
    output_len: int


def make_requests(
    num_requests: int, input_len: Lengths, output_len: Lengths, *, vocab_size: int, seed: int, round_number: int
) -> list[Request]:
    """The requests of one round.

    Args:
        num_requests: how many.
        input_len: lengths of the prompts, drawn evenly.
        output_len: tokens to generate, likewise.
        vocab_size: token ids are drawn from the upper nine tenths of the vocabulary, where no special token lies.
        seed: of the whole workload.
        round_number: which round; another one has other prompts.
    """
    rng = np.random.default_rng([seed, round_number])
    requests = []
    for _ in range(num_requests):
        length, wanted = (int(rng.integers(lens.low, lens.high + 1)) for lens in (input_len, output_len))
        ids = rng.integers(vocab_size // 10, vocab_size, size=length)
        requests.append(Request(ids.tolist(), wanted))
    return requests
