"""Sampling on the GPU without sorting the vocabulary: greedy, temperature, top-k, top-p and min-p, a seed a request.

The engine calls `sample_tokens` after the logits; tokens stay on the device, where the next step reads them. What a
row gets follows from its own logits, parameters, seed and position alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from learnsgl.kernels.launch import Launch, check_rows, power_of_2
from learnsgl.kernels.sampling_search import (
    chunk_tokens,
    draw,
    find_threshold,
    first_of_greatest,
    gumbel_tile,
    keys_of,
    sums_at,
)

_LANES = 1024
_PIVOTS = 8
_KEY_SHIFTS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}
"""Low bits that are the same in all values of a dtype once they are float32."""


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """The parameters of n rows, on the device.

    Attributes:
        temperature: fp32 [n]; 0 is greedy.
        top_k: int32 [n], at least 1; 1 is greedy, and the vocabulary's size or more keeps every token.
        top_p: fp32 [n], above 0; 1 keeps every token.
        min_p: fp32 [n], 0 to 1; 0 keeps every token.
        seeds: int64 [n]; any bits.
        positions: int64 [n]; position of the token that is chosen.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    seeds: torch.Tensor
    positions: torch.Tensor


def sample_tokens(
    logits: torch.Tensor, params: SamplingTensors, *, any_filtered: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token a row.

    Logits are divided by the temperature. Top-k keeps the likeliest k; top-p keeps the smallest set of the likeliest of
    these whose share of them reaches p; min-p drops of those what is less likely than min_p times the likeliest. Of
    tokens that are equally likely at an edge, those with the lower ids stay. One of what is left is drawn.

    Instead of a sort there is a search: eight thresholds at a time are tried in one walk over the row, so that a
    threshold is found exactly after six walks for bf16 and eleven for fp32. The draw is a maximum over the logits plus
    noise of their own (Gumbel), so it needs no sum. Noise is Philox of (seed, position, token).

    Args:
        logits: [n, V], fp16, bf16 or fp32; V below 2**24. Minus infinity rules a token out.
        params: of the n rows.
        any_filtered: whether any row has top-k, top-p or min-p; where the host knows that none has, the time for the
            search isn't spent. Wrong only if False is given and a row has one.

    Returns:
        tokens int64 [n], and failed bool [n]: rows whose greatest logit isn't a finite number, or that hold a NaN;
        their token means nothing.

    Raises:
        ValueError: logits aren't dense along their last axis, or of another dtype.

    Source: the Gumbel-max trick (Gumbel, 1954; Maddison, Tarlow and Minka, 2014); Philox (Salmon et al., 2011); doing
    without a sort as FlashInfer (2025), though it rejects samples where this searches.
    """
    tokens = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    failed = torch.empty(logits.shape[0], dtype=torch.bool, device=logits.device)
    for launch in sample_tokens_launches(logits, params, tokens, failed, any_filtered=any_filtered):
        launch.run()
    return tokens, failed


def sample_tokens_launches(
    logits: torch.Tensor, params: SamplingTensors, tokens: torch.Tensor, failed: torch.Tensor, *, any_filtered: bool
) -> list[Launch]:
    """The launches of `sample_tokens`: the best of each chunk of the vocabulary, then the choice."""
    check_rows("logits", logits)
    if logits.dtype not in _KEY_SHIFTS:
        raise ValueError(f"logits are {logits.dtype}; allowed are {', '.join(map(str, _KEY_SHIFTS))}")
    num_rows, vocab_size = logits.shape
    lanes = noise_lanes(vocab_size)
    num_chunks = triton.cdiv(vocab_size, 4 * lanes)
    best = torch.empty(num_rows, num_chunks, dtype=torch.float32, device=logits.device)
    best_tokens = torch.empty(num_rows, num_chunks, dtype=torch.int32, device=logits.device)
    shared = {
        "logits_ptr": logits, "logits_stride": logits.stride(0), "temperature_ptr": params.temperature,
        "top_k_ptr": params.top_k, "top_p_ptr": params.top_p, "min_p_ptr": params.min_p, "seeds_ptr": params.seeds,
        "positions_ptr": params.positions, "best_ptr": best, "best_tokens_ptr": best_tokens, "VOCAB_SIZE": vocab_size,
        "LANES": lanes, "NUM_CHUNKS": num_chunks,
    }  # fmt: skip
    choose = {
        "tokens_ptr": tokens, "failed_ptr": failed, "CHUNKS_BLOCK": power_of_2(num_chunks),
        "KEY_SHIFT": _KEY_SHIFTS[logits.dtype], "PIVOTS": _PIVOTS, "FILTER": any_filtered,
    }  # fmt: skip
    return [
        Launch(_best_of_chunk_kernel, (num_rows, num_chunks, 1), shared, num_warps=4),
        # a row is one program, so it gets the threads of half a multiprocessor
        Launch(_choose_kernel, (num_rows, 1, 1), shared | choose, num_warps=16 if any_filtered else 1),
    ]


def noise_lanes(vocab_size: int) -> int:
    """Tokens that take the same word of a Philox block; a part of what defines the noise.

    A block of Philox gives four words. Token t takes word t // lanes % 4 of block t // (4 * lanes) * lanes + t % lanes.
    """
    return min(_LANES, power_of_2(triton.cdiv(vocab_size, 4)))


def sample_tokens_bytes(num_rows: int, vocab_size: int, itemsize: int) -> int:
    """Bytes that `sample_tokens` must move: the logits once, and 45 bytes of parameters and results a row."""
    return num_rows * (vocab_size * itemsize + 45)


@triton.jit
def _is_filtered(top_k, top_p, min_p, VOCAB_SIZE: tl.constexpr):
    return (top_k < VOCAB_SIZE) | (top_p < 1.0) | (min_p > 0.0)


@triton.jit
def _best_of_chunk_kernel(
    logits_ptr, logits_stride, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seeds_ptr, positions_ptr, best_ptr,
    best_tokens_ptr, VOCAB_SIZE: tl.constexpr, LANES: tl.constexpr, NUM_CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program a row and chunk of 4 * LANES tokens: its greatest logit, with noise if that decides the row."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    tokens = chunk_tokens(chunk, LANES)
    place = logits_ptr + row * logits_stride + tokens
    scores = tl.load(place, mask=tokens < VOCAB_SIZE, other=float("-inf")).to(tl.float32)
    is_broken = tl.max(tl.max((scores != scores).to(tl.int32), axis=1), axis=0) > 0
    temperature = tl.load(temperature_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    filtered = _is_filtered(top_k, tl.load(top_p_ptr + row), tl.load(min_p_ptr + row), VOCAB_SIZE)
    # Rows that are filtered need the plain maximum here; their noise comes when it is known what is left.
    if (temperature > 0.0) & (top_k != 1) & (filtered == 0):
        # temperature times noise, and not logits over temperature, so that no small temperature overflows
        scores += temperature * gumbel_tile(tl.load(seeds_ptr + row), tl.load(positions_ptr + row), chunk, LANES)
    greatest, first = first_of_greatest(scores, tokens, VOCAB_SIZE)
    # a NaN compares with nothing, so it is passed on as an infinity, which is as broken
    tl.store(best_ptr + row * NUM_CHUNKS + chunk, tl.where(is_broken, float("inf"), greatest))
    tl.store(best_tokens_ptr + row * NUM_CHUNKS + chunk, first)


@triton.jit
def _choose_kernel(
    logits_ptr, logits_stride, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seeds_ptr, positions_ptr, best_ptr,
    best_tokens_ptr, tokens_ptr, failed_ptr, VOCAB_SIZE: tl.constexpr, LANES: tl.constexpr, NUM_CHUNKS: tl.constexpr,
    CHUNKS_BLOCK: tl.constexpr, KEY_SHIFT: tl.constexpr, PIVOTS: tl.constexpr, FILTER: tl.constexpr,
):  # fmt: skip
    """One program a row: the best of the chunks, or for a filtered row the search and the draw."""
    row = tl.program_id(0).to(tl.int64)
    chunks = tl.arange(0, CHUNKS_BLOCK)
    places = row * NUM_CHUNKS + chunks
    bests = tl.load(best_ptr + places, mask=chunks < NUM_CHUNKS, other=float("-inf"))
    best = tl.max(bests)
    candidates = tl.load(best_tokens_ptr + places, mask=chunks < NUM_CHUNKS, other=VOCAB_SIZE)
    token = tl.min(tl.where(bests == best, candidates, VOCAB_SIZE))
    is_finite = (best > float("-inf")) & (best < float("inf"))
    tl.store(failed_ptr + row, is_finite == 0)
    if FILTER:
        temperature = tl.load(temperature_ptr + row)
        top_k = tl.load(top_k_ptr + row)
        top_p = tl.load(top_p_ptr + row)
        min_p = tl.load(min_p_ptr + row)
        if _is_filtered(top_k, top_p, min_p, VOCAB_SIZE) & (temperature > 0.0) & (top_k != 1) & is_finite:
            BLOCK: tl.constexpr = 4 * LANES
            row_ptr = logits_ptr + row * logits_stride
            temperature = tl.maximum(temperature, 1.1754944e-38)
            lowest = keys_of(best * 0.0 + float("-inf"), KEY_SHIFT).to(tl.int64)
            above_highest = keys_of(best, KEY_SHIFT).to(tl.int64) + 1
            threshold = lowest
            num_equal = top_k.to(tl.float32) * 0.0 + VOCAB_SIZE
            if top_k < VOCAB_SIZE:
                threshold = find_threshold(
                    row_ptr, lowest, above_highest, top_k.to(tl.float32), best, temperature, VOCAB_SIZE, BLOCK,
                    KEY_SHIFT, PIVOTS, BY_COUNT=True,
                )  # fmt: skip
            above, weight_above, equal, weight_equal = sums_at(
                row_ptr, threshold, best, temperature, VOCAB_SIZE, BLOCK, KEY_SHIFT
            )
            num_equal = tl.minimum(equal, top_k.to(tl.float32) - above)
            if top_p < 1.0:
                weight = weight_equal / tl.maximum(equal, 1.0)
                target = top_p * (weight_above + num_equal * weight)
                top_k_threshold = threshold
                threshold = find_threshold(
                    row_ptr, threshold, above_highest, target, best, temperature, VOCAB_SIZE, BLOCK, KEY_SHIFT, PIVOTS,
                    BY_COUNT=False,
                )  # fmt: skip
                above, weight_above, equal, weight_equal = sums_at(
                    row_ptr, threshold, best, temperature, VOCAB_SIZE, BLOCK, KEY_SHIFT
                )
                # of those at the edge, each stays before which the target isn't reached: at least one
                weight = weight_equal / tl.maximum(equal, 1.0)
                needed = tl.where(weight > 0.0, tl.ceil((target - weight_above) / weight), equal)
                most = tl.where(threshold == top_k_threshold, num_equal, equal)
                num_equal = tl.minimum(tl.maximum(needed, 1.0), most)
            floor = best + temperature * tl.log(min_p)
            token = draw(
                row_ptr, threshold, num_equal, floor, temperature, tl.load(seeds_ptr + row),
                tl.load(positions_ptr + row), VOCAB_SIZE, LANES, NUM_CHUNKS, KEY_SHIFT,
            )  # fmt: skip
    tl.store(tokens_ptr + row, token.to(tl.int64))
