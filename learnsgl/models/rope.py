"""Rotary position embedding: the table of cosines and sines, and how a step's queries and keys are turned by it.

A model builds one table when it is loaded, looks up the positions of a step once, and every layer then rotates its
queries and keys with what was looked up.
"""

from __future__ import annotations

import math

import torch

from learnsgl.models.config import Llama3Scaling, ModelConfig


class RotaryEmbedding:
    """Rotates pairs of features by an angle that grows with the position.

    Source: RoFormer (Su et al., 2021), section 3.2, in the layout of Hugging Face's checkpoints, where feature i is
    paired with feature i + head_dim / 2; the "llama3" scaling is that of Llama 3.1's reference code.
    """

    def __init__(self, config: ModelConfig, *, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Build the table.

        Args:
            config: gives head_dim, rope_theta and rope_scaling.
            num_positions: positions that the table covers, from 0.
            dtype: of the table; the angles themselves are computed in float32.
            device: where the table lives.
        """
        inverse_frequencies = _inverse_frequencies(config)
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), inverse_frequencies)
        cos, sin = angles.cos(), angles.sin()
        # The first half of a rotated head is x1 cos - x2 sin and the second is x2 cos + x1 sin. With the sign kept
        # in the table, both halves are x cos + swapped(x) sin, which is three operators instead of six.
        self._cos = torch.cat((cos, cos), dim=-1).to(device, dtype)  # [num_positions, D]
        self._sin = torch.cat((-sin, sin), dim=-1).to(device, dtype)

    def look_up(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines of a step.

        Args:
            positions: int64 [T].

        Returns:
            Two tensors [T, 1, D], to be passed to `rotate_`.
        """
        return self._cos.index_select(0, positions).unsqueeze(1), self._sin.index_select(0, positions).unsqueeze(1)


def rotate_(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate queries or keys in place.

    Args:
        heads: [T, number of heads, D].
        cos: [T, 1, D], from `RotaryEmbedding.look_up`.
        sin: [T, 1, D], likewise.
    """
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    heads.mul_(cos).addcmul_(swapped, sin)


def _inverse_frequencies(config: ModelConfig) -> torch.Tensor:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents  # [D / 2], radians a position
    return frequencies if config.rope_scaling is None else _llama3_scaled(frequencies, config.rope_scaling)


def _llama3_scaled(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Slow the features whose wave is longer than the context that the model was first trained with."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)  # in the original context
    # 0 where a feature turns too rarely to be kept as it is, 1 where it turns often enough, linear in between
    share_kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share_kept = share_kept.clamp(0.0, 1.0)
    return frequencies * (share_kept + (1.0 - share_kept) / scaling.factor)
