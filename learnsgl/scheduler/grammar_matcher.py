"""One constrained answer while it is written: which tokens may come next, and the token that came.

The scheduler has a `GrammarMatcher` for each request with a grammar. `compute_masks` is what it calls before a step is
sampled, `advance` when a step's tokens are committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from learnsgl.core import Req, SamplingParams, TokenMatcher
from learnsgl.message.types import ErrorInfo
from learnsgl.scheduler.executor import Masks
from learnsgl.scheduler.table import BoolArray, Int64Array

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bits = npt.NDArray[np.uint8]


class GrammarMatcher:
    """Follows one answer through its grammar.

    Its position is the number of tokens that it took, which is the request's `num_output`; so the trace knows it
    without further state.

    Args:
        matcher: llguidance's, before its first token.
        model_vocab_size: tokens of the model.
        tokenizer_vocab_size: tokens of the tokenizer; either may have more than the other.
        eos_ids: tokens that end a sequence.

    Attributes:
        error: why no mask can be computed any more; `None` as long as all is well.
        num_mask_bytes: length of a mask for the executor, with one bit for each token of the model.
        num_filled_bytes: length of what `fill` writes; whole words of 32 bits, as llguidance wants it.
    """

    def __init__(
        self, matcher: LLMatcher, *, model_vocab_size: int, tokenizer_vocab_size: int, eos_ids: tuple[int, ...]
    ) -> None:
        self._matcher = matcher
        self._num_matcher_bytes = -(-tokenizer_vocab_size // 32) * 4
        self._eos_ids = eos_ids
        self.error: str | None = None
        self.num_mask_bytes = -(-model_vocab_size // 8)
        self.num_filled_bytes = max(-(-self.num_mask_bytes // 4) * 4, self._num_matcher_bytes)

    def take(self, token: int) -> None:
        """Go on by a token that was sampled; one that the grammar doesn't allow is an error."""
        if self.error is None and not self._matcher.consume_token(token):
            self.error = self._matcher.get_error() or f"token {token} isn't allowed"

    def fill(self, bits: Bits, sampling: SamplingParams, num_output: int) -> bool:
        """Write the tokens that may come next.

        Where the grammar may end, so may the answer: by an end-of-sequence token, or by a stop token of the request.
        `ignore_eos` and `min_tokens` rule those out as long as anything else is possible.

        Args:
            bits: uint8 [num_filled_bytes], all zero; the lowest bit of a byte comes first.
            sampling: the request's parameters.
            num_output: tokens that were generated.

        Returns:
            Whether there is such a token; if not, `error` says why.
        """
        if self.error is None:
            self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, self._num_matcher_bytes)
            if self._matcher.is_error():
                self.error = self._matcher.get_error()
        bits = bits[: self.num_mask_bytes]
        if self.error is None and not bits.any():
            self.error = "no token is allowed"
        if self.error is None and (sampling.stop_token_ids or sampling.ignore_eos or sampling.min_tokens):
            self._change_ends(bits, sampling, too_early=num_output < sampling.min_tokens)
        return self.error is None

    def _change_ends(self, bits: Bits, sampling: SamplingParams, *, too_early: bool) -> None:
        stops = sampling.stop_token_ids
        if not too_early and any(_has(bits, token) for token in self._eos_ids):
            _set(bits, stops)
        rest = bits.copy()
        if too_early:
            _clear(rest, (*self._eos_ids, *stops))
        elif sampling.ignore_eos:
            _clear(rest, self._eos_ids)
        if rest.any():
            bits[:] = rest


def _has(bits: Bits, token: int) -> bool:
    return bool(bits[token >> 3] >> (token & 7) & 1)


def _set(bits: Bits, tokens: Sequence[int]) -> None:
    for token in tokens:
        bits[token >> 3] |= 1 << (token & 7)


def _clear(bits: Bits, tokens: Sequence[int]) -> None:
    for token in tokens:
        bits[token >> 3] &= ~(1 << (token & 7)) & 0xFF


def advance(reqs: Sequence[Req], tokens: Sequence[int]) -> None:
    """Let the matchers of requests, each with a grammar, take their newest tokens."""
    for req, token in zip(reqs, tokens, strict=True):
        _matcher_of(req).take(token)


def compute_masks(reqs: Sequence[Req], rows: Int64Array, num_outputs: Int64Array) -> tuple[Masks, Int64Array]:
    """The masks of a step.

    Args:
        reqs: n running requests of one model, at least one, each with a matcher.
        rows: their table rows, [n].
        num_outputs: tokens that each has generated, [n].

    Returns:
        The masks of those that have one, and the rows of the others: their matchers have failed.
    """
    first = _matcher_of(reqs[0])
    bits: Bits = np.zeros((len(reqs), first.num_filled_bytes), dtype=np.uint8)
    is_good: BoolArray = np.array(
        [
            _matcher_of(req).fill(mine, req.sampling, num_output)
            for req, mine, num_output in zip(reqs, bits, num_outputs.tolist(), strict=True)
        ]
    )
    masks = Masks(rows[is_good].astype(np.int32), bits[is_good, : first.num_mask_bytes].tobytes())
    return masks, rows[~is_good]


def _matcher_of(req: Req) -> TokenMatcher:
    assert req.matcher is not None, "a request without a grammar"
    return req.matcher


def failure() -> ErrorInfo:
    """What a client is told whose matcher has failed; the reason quotes the grammar, so it goes nowhere else."""
    text = "the grammar could not be followed any further; make it simpler, or leave it out"
    return ErrorInfo(text, 400, "grammar_error")
