"""One constrained answer while it is written: which tokens may come next, and the token that came.

The scheduler has a `GrammarMatcher` for each request with a grammar. `compute_masks` is what it calls before a step is
sampled, `advance` when a step's tokens are committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from learnsgl.core import Int32Array, Req, SamplingParams
from learnsgl.message.types import ErrorInfo
from learnsgl.scheduler.executor import Masks

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MaskShape:
    """Lengths of one mask, in bytes.

    Attributes:
        num_bytes: of a mask for the executor: one bit for each token of the model.
        num_matcher_bytes: of llguidance's: one for each of the tokenizer's, in whole words of 32.
    """

    num_bytes: int
    num_matcher_bytes: int

    @staticmethod
    def of(model_vocab_size: int, tokenizer_vocab_size: int) -> MaskShape:
        """For a model and a tokenizer, either of which may have more tokens than the other."""
        return MaskShape(-(-model_vocab_size // 8), -(-tokenizer_vocab_size // 32) * 4)


class GrammarMatcher:
    """Follows one answer through its grammar.

    Its position is the number of tokens that it took, which is the request's `num_output`; so the trace knows it
    without further state.

    Attributes:
        error: why no mask can be computed any more; `None` as long as all is well.
    """

    def __init__(self, matcher: LLMatcher, shape: MaskShape, eos_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._shape = shape
        self._eos_ids = eos_ids
        self.error: str | None = None

    def take(self, token: int) -> None:
        """Go on by a token that was sampled; one that the grammar doesn't allow is an error."""
        if self.error is None and not self._matcher.consume_token(token):
            self.error = self._matcher.get_error() or f"token {token} isn't allowed"

    def mask(self, sampling: SamplingParams, num_output: int) -> Bits | None:
        """The tokens that may come next.

        Where the grammar may end, so may the answer: by an end-of-sequence token, or by a stop token of the request.
        `ignore_eos` and `min_tokens` rule those out as long as anything else is possible.

        Args:
            sampling: the request's parameters.
            num_output: tokens that were generated.

        Returns:
            uint8 [ceil(V / 8)], the lowest bit of a byte first; `None` with `error` set where there is no such token.
        """
        found = np.zeros(max(self._shape.num_bytes, self._shape.num_matcher_bytes), dtype=np.uint8)
        if self.error is None:
            self._matcher.unsafe_compute_mask_ptr(found.ctypes.data, self._shape.num_matcher_bytes)
            if self._matcher.is_error():
                self.error = self._matcher.get_error()
        bits = found[: self._shape.num_bytes]
        if self.error is None and not bits.any():
            self.error = "no token is allowed"
        if self.error is not None:
            return None
        return self._with_ends(bits, sampling, num_output)

    def _with_ends(self, bits: Bits, sampling: SamplingParams, num_output: int) -> Bits:
        may_end = any(_has(bits, token) for token in self._eos_ids)
        too_early = num_output < sampling.min_tokens
        if may_end and not too_early:
            _set(bits, sampling.stop_token_ids)
        ruled_out = (*(self._eos_ids if sampling.ignore_eos or too_early else ()),
                     *(sampling.stop_token_ids if too_early else ()))  # fmt: skip
        if not ruled_out:
            return bits
        rest = bits.copy()
        _clear(rest, ruled_out)
        return rest if rest.any() else bits


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
        if req.matcher is not None:
            req.matcher.take(token)


def compute_masks(reqs: Sequence[Req], num_outputs: Sequence[int]) -> tuple[Masks, list[int]]:
    """The masks of a step.

    Args:
        reqs: running requests, each with a matcher.
        num_outputs: tokens that each has generated.

    Returns:
        The masks of those that have one, and the rows of the others: their matchers have failed.
    """
    rows, masks, failed = [], [], []
    for req, num_output in zip(reqs, num_outputs, strict=True):
        if req.matcher is None or req.row is None:
            continue
        mask = req.matcher.mask(req.sampling, num_output)
        if mask is None:
            failed.append(req.row)
        else:
            rows.append(req.row)
            masks.append(mask.tobytes())
    found: Int32Array = np.array(rows, dtype=np.int32)
    return Masks(found, b"".join(masks)), failed


def failure() -> ErrorInfo:
    """What a client is told whose matcher has failed; the reason quotes the grammar, so it goes nowhere else."""
    text = "the grammar could not be followed any further; make it simpler, or leave it out"
    return ErrorInfo(text, 500, "grammar_error")
