"""Sampling in plain torch and numpy: which tokens are left, how likely each is, and which one the noise chooses.

The tests hold the kernels of `sampling.py` to it: token for token with the same noise, and in distribution to
`engine/sampler.py`, which draws in another way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.kernels.sampling import SamplingTensors, noise_lanes

UInt64Array = npt.NDArray[np.uint64]
_LOW_32 = np.uint64(0xFFFFFFFF)


def kept_tokens(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Which tokens top-k, top-p and min-p leave of each row; a greedy row keeps its first best one.

    Args:
        logits: [n, V].
        params: of the n rows.

    Returns:
        bool [n, V].
    """
    scaled = _scaled(logits, params)
    top_k = torch.where(params.temperature == 0.0, 1, params.top_k).unsqueeze(1)
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    weights = values.exp().masked_fill(torch.arange(values.shape[1]) >= top_k, 0.0)
    before = weights.cumsum(dim=-1) - weights
    top_p = params.top_p.double().unsqueeze(1)
    # as it is above 0, the first token of all stays
    stays = (weights > 0.0) & ((before < top_p * weights.sum(dim=-1, keepdim=True)) | (top_p >= 1.0))
    stays &= values >= params.min_p.double().log().unsqueeze(1)
    return torch.zeros_like(stays).scatter_(1, order, stays)


def probabilities(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """How likely each token is to be drawn: fp64 [n, V]."""
    kept = kept_tokens(logits, params)
    return _scaled(logits, params).masked_fill(~kept, -torch.inf).softmax(dim=-1)


def sample_tokens_reference(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """What `sample_tokens` chooses, with the same noise: int64 [n]. Rows must be sound."""
    noise = torch.from_numpy(gumbel_noise(params.seeds.numpy(), params.positions.numpy(), logits.shape[1]))
    is_greedy = (params.temperature == 0.0) | (params.top_k == 1)
    strength = torch.where(is_greedy, 0.0, params.temperature).double().unsqueeze(1)
    scores = logits.double() + strength * noise
    return scores.masked_fill(~kept_tokens(logits, params), -torch.inf).argmax(dim=-1)


def gumbel_noise(
    seeds: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], vocab_size: int
) -> npt.NDArray[np.float64]:
    """Noise of every token, fp64 [n, vocab_size]; both arguments are [n]."""
    lanes = noise_lanes(vocab_size)
    tokens = np.arange(vocab_size)
    counters = (tokens // (4 * lanes) * lanes + tokens % lanes).astype(np.uint64)
    shape = (len(seeds), vocab_size)
    key = seeds.astype(np.int64).view(np.uint64)[:, None]
    state = (
        np.broadcast_to(counters, shape), np.broadcast_to(positions.astype(np.uint64)[:, None] & _LOW_32, shape),
        np.zeros(shape, np.uint64), np.zeros(shape, np.uint64),
    )  # fmt: skip
    words = np.stack(philox(state, key & _LOW_32, key >> np.uint64(32)))  # [4, n, V]
    word = np.take_along_axis(words, np.broadcast_to(tokens // lanes % 4, (1, *shape)), axis=0)[0]
    uniform = (word.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log(-np.log1p(-uniform))


def philox(
    state: tuple[UInt64Array, UInt64Array, UInt64Array, UInt64Array], key_0: UInt64Array, key_1: UInt64Array
) -> tuple[UInt64Array, UInt64Array, UInt64Array, UInt64Array]:
    """Philox4x32-10: four random words of 32 bits from four counters and two keys, all held in uint64.

    Source: Parallel Random Numbers: As Easy as 1, 2, 3 (Salmon et al., 2011), section 4.
    """
    c0, c1, c2, c3 = state
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> np.uint64(32)) ^ c1 ^ key_0, b & _LOW_32, (a >> np.uint64(32)) ^ c3 ^ key_1, a & _LOW_32
        key_0, key_1 = (key_0 + np.uint64(0x9E3779B9)) & _LOW_32, (key_1 + np.uint64(0xBB67AE85)) & _LOW_32
    return c0, c1, c2, c3


def _scaled(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Logits over temperature, fp64, the best being 0."""
    wide = logits.double()
    divisor = params.temperature.double().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
    return (wide - wide.max(dim=-1, keepdim=True).values) / divisor
