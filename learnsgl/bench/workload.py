"""Prompts for benchmarks: random token ids of wanted lengths, the same for every engine, new in every round.

New in every round, so that no prefix cache knows them; from a seed, so that two runs measure the same.
"""

from __future__ import annotations

import random

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


NANO_VLLM_REQUESTS = 256
NANO_VLLM_MAX_LEN = 2048
_NANO_VLLM_LENGTHS = (100, 1024)
_NANO_VLLM_LAST_ID = 10_000


def nano_vllm_requests(vocab_size: int, round_number: int = 0) -> list[Request]:
    """The workload of nano-vLLM's benchmark, which Mini-SGLang's measures too: 256 requests at once.

    Prompts and answers have 100 to 1,024 tokens each: 142,827 tokens in and 133,966 out. Round 0 has the very token ids
    of that benchmark; another round has the same lengths and shifted ids, so that no prefix cache knows them.

    Args:
        vocab_size: ids of a smaller vocabulary than 10,001 wrap around.
        round_number: which round.

    Source: bench.py of https://github.com/GeeeekExplorer/nano-vllm: Python's generator seeded with 0; for each prompt
    first its length and then its ids are drawn, and after all prompts the lengths of the answers.
    """
    draw = random.Random(0).randint
    prompts = []
    for _ in range(NANO_VLLM_REQUESTS):
        length = draw(*_NANO_VLLM_LENGTHS)
        prompts.append([draw(0, _NANO_VLLM_LAST_ID) for _ in range(length)])
    output_lens = [draw(*_NANO_VLLM_LENGTHS) for _ in range(NANO_VLLM_REQUESTS)]
    num_ids, shift = min(vocab_size, _NANO_VLLM_LAST_ID + 1), 7919 * round_number
    return [
        Request([(token + shift) % num_ids for token in prompt], output_len)
        for prompt, output_len in zip(prompts, output_lens, strict=True)
    ]
