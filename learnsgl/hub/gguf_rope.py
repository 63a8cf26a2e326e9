"""How a Llama GGUF file stretches its rotary embeddings, in the words of `config.json`.

Called by `gguf.py`. A GGUF file of Llama 3.1 and later holds the finished divisor of each frequency, not the four
numbers it was computed from; three of them are the same in all of Meta's models, and the fourth is the largest divisor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from learnsgl.hub.safetensors_file import Float32Array

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def llama3_scaling(divisors: Float32Array, rope_theta: float) -> dict[str, Any] | None:
    """The `rope_scaling` that gives these divisors.

    Args:
        divisors: float32 [head_dim / 2]; what each rotary frequency is divided by.
        rope_theta: base of the frequencies.

    Returns:
        The entry for `config.json`, or `None` where no Llama 3 scaling gives these divisors.
    """
    scaling = {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3}
    expected = llama3_divisors(len(divisors), rope_theta, scaling)
    return scaling if np.allclose(divisors, expected, rtol=1e-4) else None


def llama3_divisors(num_freqs: int, rope_theta: float, scaling: dict[str, Any]) -> Float32Array:
    """What Llama 3 divides each frequency by: 1 for the high ones, `factor` for the low ones, smooth in between.

    Source: the rotary scaling of Llama 3.1 ("The Llama 3 Herd of Models", 2024, section 3.2), as the model's
    `config.json` parametrises it.
    """
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    frequencies = rope_theta ** -(np.arange(num_freqs) / num_freqs)
    num_turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # over the whole context
    smooth = np.clip((num_turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth), dtype=np.float32)
