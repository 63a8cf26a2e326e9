"""From logits to tokens: greedy, temperature, top-k, top-p and min-p, for all rows of a step at once.

The engine calls `sample` on its compute thread. A row's token follows from its own logits, parameters, seed and
position alone: rows are sorted into kinds by their own parameters, and every operator works row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from learnsgl.core import Int32Array
from learnsgl.engine.transfers import HOST, Transfers
from learnsgl.errors import EngineError
from learnsgl.scheduler.executor import Masks

BLOCK = 256
"""Weights that are cumulated together."""

NUM_CANDIDATES = 1024
"""Filtered rows look at so many of the likeliest tokens first; only those whose set is larger sort them all."""


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """The parameters of n rows, on the host.

    Attributes:
        temperature: float32 [n]; not read where `greedy` is set.
        top_k: int64 [n]; the vocabulary's size keeps every token.
        top_p: float32 [n].
        min_p: float32 [n]; 0 rules out nothing.
        greedy: bool [n].
        uniforms: float64 [n] in [0, 1); one random number for each row, from `uniforms`.
    """

    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float32]
    min_p: npt.NDArray[np.float32]
    greedy: npt.NDArray[np.bool_]
    uniforms: npt.NDArray[np.float64]


def sample(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """Choose one token a row.

    The logits are divided by the temperature; then top-k keeps the likeliest k; then top-p keeps the smallest set of
    the likeliest whose renormalised probabilities reach p; then min-p keeps those that are at least so many times as
    probable as the likeliest. The token is where the random number falls in what is left. Sources: nucleus sampling
    is Holtzman et al., 2020, section 3.1; min-p is Nguyen et al., 2024, section 3.

    Args:
        logits: [n, V], any float dtype.
        batch: parameters of the n rows.

    Returns:
        int64 [n], on the logits' device.

    Raises:
        EngineError: a row's logits aren't numbers, so that no token can be chosen.
    """
    logits = logits.float()
    best, tokens = logits.max(dim=-1)
    if not bool(best.isfinite().all()):
        bad = int(best.isfinite().logical_not().nonzero()[0])
        raise EngineError(
            f"the best logit of row {bad} of {len(best)} is {float(best[bad])}; the weights or the mask are broken"
        )
    if batch.greedy.all():
        return tokens
    filtered = (batch.top_k < logits.shape[1]) | (batch.top_p < 1.0)
    for kind, choose in ((~filtered, _sample_all), (filtered, _sample_filtered)):
        rows = np.flatnonzero(kind & ~batch.greedy)
        if len(rows):
            index = torch.from_numpy(rows).to(logits.device)
            scaled = _scaled(logits.index_select(0, index), best.index_select(0, index), batch.temperature[rows])
            tokens.index_copy_(0, index, choose(scaled, batch, rows))
    return tokens


def apply_masks(logits: torch.Tensor, rows: Int32Array, masks: Masks, transfers: Transfers = HOST) -> torch.Tensor:
    """Rule out the tokens that constrained rows may not take.

    The bits travel packed, and become a tensor of V numbers a row on the device.

    Args:
        logits: [n, V], device; changed in place.
        rows: int32 [n]; table row of each.
        masks: for some of these rows, one bit a token, the lowest bit of a byte first.
        transfers: the way to the logits' device.

    Returns:
        The logits [n, V], minus infinity where a token isn't allowed.

    Raises:
        EngineError: a mask is for a row that isn't sampled, or its length isn't that of the vocabulary.
    """
    num_bytes = -(-logits.shape[1] // 8)
    if len(masks.allowed) != len(masks.rows) * num_bytes:
        raise EngineError(f"{len(masks.rows)} masks of {num_bytes} bytes were due, and {len(masks.allowed)} bytes came")
    order = np.argsort(rows)
    where = order[np.minimum(np.searchsorted(rows, masks.rows, sorter=order), len(rows) - 1)]
    if (rows[where] != masks.rows).any():
        raise EngineError(f"masks came for rows {masks.rows.tolist()}, and the step samples rows {rows.tolist()}")
    packed = np.frombuffer(masks.allowed, dtype=np.uint8).reshape(-1, num_bytes)
    words = np.zeros((len(packed), -(-num_bytes // 4) * 4), dtype=np.uint8)
    words[:, :num_bytes] = packed
    index, uploaded = transfers.upload(where, words.view("<i4"))
    places = torch.arange(8, dtype=torch.uint8, device=logits.device)
    bits = (uploaded.view(torch.uint8).unsqueeze(2) >> places) & 1
    forbidden = bits.view(len(packed), -1)[:, : logits.shape[1]] == 0
    return logits.index_copy_(0, index, logits.index_select(0, index).masked_fill_(forbidden, -torch.inf))


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One random number in [0, 1) for each (seed, position), whatever else is drawn.

    Args:
        seeds: uint64 [n].
        positions: int64 [n]; position of the token that is chosen.

    Returns:
        float64 [n], multiples of 2**-53.
    """
    return (mix(seeds, positions.astype(np.uint64)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(seeds: npt.NDArray[np.uint64], counters: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Element `counter` of the random sequence that starts at `seed`.

    Source: SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014), whose state
    is a counter, so that any element can be had directly. The seed is scrambled first, so that neighbouring seeds
    don't give one sequence shifted by a step.
    """
    return _scramble(_scramble(seeds) + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def _scramble(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _scaled(logits: torch.Tensor, best: torch.Tensor, temperature: npt.NDArray[np.float32]) -> torch.Tensor:
    """Logits over temperature, shifted so that the best is 0: a tiny temperature can't overflow."""
    divisor = torch.from_numpy(temperature).to(logits.device).clamp(min=torch.finfo(torch.float32).tiny)
    return (logits - best.unsqueeze(1)).div_(divisor.unsqueeze(1))


def _sample_all(scaled: torch.Tensor, batch: SamplingBatch, rows: npt.NDArray[np.intp]) -> torch.Tensor:
    """Rows without top-k and top-p: no sorting."""
    weights = scaled.exp()
    min_p = batch.min_p[rows]
    if min_p.any():
        least = torch.from_numpy(min_p).to(scaled.device).unsqueeze(1)
        weights.masked_fill_(weights < least, 0.0)
    return _invert_cdf(weights, batch.uniforms[rows])


def _sample_filtered(scaled: torch.Tensor, batch: SamplingBatch, rows: npt.NDArray[np.intp]) -> torch.Tensor:
    """Rows with top-k or top-p, from the likeliest tokens if those are enough, else from all of them, sorted."""
    vocab_size = scaled.shape[1]
    top_k = torch.from_numpy(np.minimum(batch.top_k[rows], vocab_size)).to(scaled.device).unsqueeze(1)
    top_p = torch.from_numpy(batch.top_p[rows].astype(np.float64)).to(scaled.device).unsqueeze(1)
    min_p = torch.from_numpy(batch.min_p[rows].astype(np.float64)).to(scaled.device).unsqueeze(1)
    num_candidates = min(NUM_CANDIDATES, vocab_size)
    values, ids = scaled.topk(num_candidates, dim=-1)
    reached = _keep_k(values, top_k).sum(dim=-1, keepdim=True)
    # top-p is a share of what top-k has left: of the k likeliest, or of the whole vocabulary
    total, within = reached, top_k <= num_candidates
    if (batch.top_k[rows] >= vocab_size).any():
        everything = scaled.exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
        total = torch.where(within, reached, everything)
        within = within | ((top_k == vocab_size) & (reached >= top_p * everything))
    enough = within.squeeze(1).cpu().numpy()
    tokens = torch.empty(len(rows), dtype=torch.int64, device=scaled.device)
    if enough.any():
        some = torch.from_numpy(np.flatnonzero(enough)).to(scaled.device)
        limits = _Limits(top_k[some], top_p[some], min_p[some])
        picked = _sample_sorted(values[some], limits, total[some], batch.uniforms[rows[enough]])
        tokens[some] = ids[some].gather(1, picked).squeeze(1)
    if not enough.all():
        rest = torch.from_numpy(np.flatnonzero(~enough)).to(scaled.device)
        values, ids = scaled[rest].sort(dim=-1, descending=True, stable=True)
        total = _keep_k(values, top_k[rest]).sum(dim=-1, keepdim=True)
        limits = _Limits(top_k[rest], top_p[rest], min_p[rest])
        picked = _sample_sorted(values, limits, total, batch.uniforms[rows[~enough]])
        tokens[rest] = ids.gather(1, picked).squeeze(1)
    return tokens


class _Limits(NamedTuple):
    """How far down the sorted tokens of n rows go; each [n, 1]."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor


def _sample_sorted(
    values: torch.Tensor, limits: _Limits, total: torch.Tensor, uniform: npt.NDArray[np.float64]
) -> torch.Tensor:
    """Ranks chosen among sorted values [n, C], as int64 [n, 1]; all else is [n, 1]."""
    weights = _keep_k(values, limits.top_k)
    # a token stays if those before it don't reach p yet; so the first always does
    before = weights.cumsum(dim=-1) - weights
    ruled_out = (before >= limits.top_p * total) | (weights < limits.min_p)  # the first weighs 1
    return _invert_cdf(weights.masked_fill_(ruled_out, 0.0), uniform).unsqueeze(1)


def _keep_k(values: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Probabilities up to a factor, float64 [n, C], of sorted values, 0 from the k-th on."""
    ranks = torch.arange(values.shape[1], device=values.device)
    return values.double().exp().masked_fill_(ranks >= top_k, 0.0)


def _invert_cdf(weights: torch.Tensor, uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Where a random number falls: int64 [n], for weights [n, C] that needn't sum to 1.

    First the block in which it falls, then the place there, so that not all C weights are summed one by one.
    """
    num_rows, num_weights = weights.shape
    blocks = F.pad(weights, (0, -num_weights % BLOCK)).view(num_rows, -1, BLOCK)
    sums = blocks.sum(dim=-1).double()
    cdf = sums.cumsum(dim=-1)
    targets = torch.from_numpy(uniform).to(cdf.device).unsqueeze(1) * cdf[:, -1:]
    block = _find(cdf, targets)
    before = cdf.gather(1, block) - sums.gather(1, block)
    inside = blocks.take_along_dim(block.unsqueeze(2), dim=1).squeeze(1).double().cumsum(dim=-1)
    return (block * BLOCK + _find(inside, targets - before)).squeeze(1)


def _find(cdf: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The first place whose cumulated weight [n, C] is above the target [n, 1], as int64 [n, 1].

    It never has weight 0: a target that rounding has put outside is moved to the nearest one inside.
    """
    inside = torch.minimum(targets.clamp(min=0.0), torch.nextafter(cdf[:, -1:], torch.zeros_like(targets)))
    return torch.searchsorted(cdf, inside, right=True)
