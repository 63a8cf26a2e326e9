"""The device functions of sampling: noise, thresholds found without a sort, and the draw from what is left.

Only the kernels of `sampling.py` call them. A key is a logit as an integer of the same order, so that a threshold is
found by cutting an interval of integers down to one, exactly.
"""

from __future__ import annotations

import triton
import triton.language as tl

STAGES = tl.constexpr(3)
"""Of the pipeline of each walk over the logits: two blocks are on their way while one is looked at. A row has a program
alone on a multiprocessor, so nothing else hides the way of a block."""


@triton.jit
def gumbel_tile(seed, position, chunk, LANES: tl.constexpr):
    """Gumbel noise (minus the logarithm of an exponential variable) of a chunk of tokens, fp32 [4, LANES]."""
    lanes = tl.arange(0, LANES)
    counter = chunk * LANES + lanes
    zero = counter * 0
    word_0, word_1, word_2, word_3 = tl.philox(seed, counter, zero + position.to(tl.int32), zero, zero)
    part = tl.arange(0, 4)[:, None]
    low = tl.where(part == 0, word_0[None, :], word_1[None, :])
    word = tl.where(part < 2, low, tl.where(part == 2, word_2[None, :], word_3[None, :]))
    uniform = (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2**-32; rounding may make it 1
    # Great noise is a small exponential. There 1 - uniform would lose what tells tokens apart, and a series doesn't.
    exact = -tl.log(1.0 - tl.minimum(uniform, 0.99999994))
    return -tl.log(tl.where(uniform < 0.001, uniform + 0.5 * uniform * uniform, exact))


@triton.jit
def chunk_tokens(chunk, LANES: tl.constexpr):
    """The tokens of a chunk, int32 [4, LANES]."""
    return (chunk * 4 + tl.arange(0, 4)[:, None]) * LANES + tl.arange(0, LANES)[None, :]


@triton.jit
def keys_of(logits, KEY_SHIFT: tl.constexpr):
    """Integers in the order of the logits, int32; equal ones for equal logits."""
    bits = (logits.to(tl.float32) + 0.0).to(tl.int32, bitcast=True)  # minus 0 becomes 0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> KEY_SHIFT


@triton.jit
def weights_of(logits, best, temperature):
    """Probabilities up to a factor."""
    return tl.exp((logits.to(tl.float32) - best) / temperature)


@triton.jit
def find_threshold(
    row_ptr, lowest, above_highest, target, best, temperature, VOCAB_SIZE: tl.constexpr, BLOCK: tl.constexpr,
    KEY_SHIFT: tl.constexpr, PIVOTS: tl.constexpr, BY_COUNT: tl.constexpr,
):  # fmt: skip
    """The greatest key such that the tokens with it or a greater one reach the target, in number or in weight.

    Those with `lowest` (int64) or more are known to reach it, those with `above_highest` are none.
    """
    low = lowest
    high = above_highest
    beyond = target * 0.0  # of the tokens with `high` or a greater key
    numbers = tl.arange(0, PIVOTS)
    while high - low > 1:
        step = (high - low + PIVOTS) // (PIVOTS + 1)
        pivots = low + step * (numbers + 1)
        reached = tl.zeros((PIVOTS,), tl.float32) + beyond
        for start in tl.range(0, VOCAB_SIZE, BLOCK, num_stages=STAGES):
            tokens = start + tl.arange(0, BLOCK)
            logits = tl.load(row_ptr + tokens, mask=tokens < VOCAB_SIZE, other=float("-inf"))
            keys = keys_of(logits, KEY_SHIFT).to(tl.int64)
            open_ = (keys > low) & (keys < high) & (tokens < VOCAB_SIZE)
            # after the first walk hardly a block holds any
            if tl.max(open_.to(tl.int32)) > 0:
                if BY_COUNT:
                    weights = open_.to(tl.float32)
                else:
                    weights = tl.where(open_, weights_of(logits, best, temperature), 0.0)
                reached += tl.sum(tl.where(keys[None, :] >= pivots[:, None], weights[None, :], 0.0), axis=1)
        # they fall from pivot to pivot, so those that reach the target come first
        passed = tl.sum((reached >= target).to(tl.int32))
        next_high = low + step * (passed + 1)
        if (passed < PIVOTS) & (next_high < high):
            beyond = tl.sum(tl.where(numbers == passed, reached, 0.0))
            high = next_high
        low = low + step * passed
    return low


@triton.jit
def sums_at(
    row_ptr, threshold, best, temperature, VOCAB_SIZE: tl.constexpr, BLOCK: tl.constexpr, KEY_SHIFT: tl.constexpr
):
    """Number and weight of the tokens above a key, then of those at it."""
    above = tl.zeros((BLOCK,), tl.float32)
    weight_above = tl.zeros((BLOCK,), tl.float32)
    equal = tl.zeros((BLOCK,), tl.float32)
    weight_equal = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, VOCAB_SIZE, BLOCK, num_stages=STAGES):
        tokens = start + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + tokens, mask=tokens < VOCAB_SIZE, other=float("-inf"))
        keys = keys_of(logits, KEY_SHIFT).to(tl.int64)
        weights = weights_of(logits, best, temperature)
        is_above = (keys > threshold) & (tokens < VOCAB_SIZE)
        is_equal = (keys == threshold) & (tokens < VOCAB_SIZE)
        above += is_above.to(tl.float32)
        weight_above += tl.where(is_above, weights, 0.0)
        equal += is_equal.to(tl.float32)
        weight_equal += tl.where(is_equal, weights, 0.0)
    return tl.sum(above), tl.sum(weight_above), tl.sum(equal), tl.sum(weight_equal)


@triton.jit
def draw(
    row_ptr, threshold, num_equal, floor, temperature, seed, position, VOCAB_SIZE: tl.constexpr, LANES: tl.constexpr,
    NUM_CHUNKS: tl.constexpr, KEY_SHIFT: tl.constexpr,
):  # fmt: skip
    """The token of the greatest noisy logit, of those above a key and the first `num_equal` at it, if above `floor`."""
    best = tl.full((4, LANES), float("-inf"), tl.float32)
    best_tokens = tl.zeros((4, LANES), tl.int32) + VOCAB_SIZE
    num_seen = num_equal * 0.0
    for chunk in tl.range(0, NUM_CHUNKS, num_stages=STAGES):
        tokens = chunk_tokens(chunk, LANES)
        inside = tokens < VOCAB_SIZE
        logits = tl.load(row_ptr + tokens, mask=inside, other=float("-inf")).to(tl.float32)
        above_or_at = (keys_of(logits, KEY_SHIFT).to(tl.int64) >= threshold) & (logits >= floor) & inside
        # most chunks have nothing to choose from, and noise is dear
        if tl.max(tl.max(above_or_at.to(tl.int32), axis=1), axis=0) > 0:
            is_equal = ((keys_of(logits, KEY_SHIFT).to(tl.int64) == threshold) & inside).to(tl.float32)
            in_part = tl.sum(is_equal, axis=1)
            before = num_seen + tl.cumsum(in_part, axis=0) - in_part  # [4]
            ranks = before[:, None] + tl.cumsum(is_equal, axis=1)  # from 1, in the order of ids
            num_seen += tl.sum(in_part, axis=0)
            kept = above_or_at & ((is_equal == 0.0) | (ranks <= num_equal))
            noisy = logits + temperature * gumbel_tile(seed, position, chunk, LANES)
            scores = tl.where(kept, noisy, float("-inf"))
            best_tokens = tl.where(scores > best, tokens, best_tokens)
            best = tl.maximum(best, scores)
    return first_of_greatest(best, best_tokens, VOCAB_SIZE)[1]


@triton.jit
def first_of_greatest(scores, tokens, VOCAB_SIZE: tl.constexpr):
    """The greatest score of a tile, and the least token that has it."""
    greatest = tl.max(tl.max(scores, axis=1), axis=0)
    return greatest, tl.min(tl.min(tl.where(scores == greatest, tokens, VOCAB_SIZE), axis=1), axis=0)
