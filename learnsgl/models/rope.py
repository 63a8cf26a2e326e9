"""Rotary position embedding: the table of cosines and sines, and how a step's queries and keys are turned by it.

A model builds one table when it is loaded and makes one `Rotation` a step. Every layer then rotates its queries and
keys, with what was looked up for the step, or in a kernel that looks up by itself.
"""

from __future__ import annotations

import math

import torch

from learnsgl.models.config import ModelConfig
from learnsgl.models.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling


class RotaryEmbedding:
    """Rotates pairs of features by an angle that grows with the position.

    Source: RoFormer (Su et al., 2021), section 3.2, in the layout of Hugging Face's checkpoints, where feature i is
    paired with feature i + head_dim / 2. Scalings: "linear" from Extending Context Window of Large Language Models via
    Positional Interpolation (Chen et al., 2023); "llama3" from Llama 3.1's reference code; "yarn" from YaRN: Efficient
    Context Window Extension of Large Language Models (Peng et al., 2023), section 3.
    """

    def __init__(self, config: ModelConfig, *, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Build the table.

        Args:
            config: gives head_dim, rope_theta and rope_scaling.
            num_positions: positions that the table covers, from 0.
            dtype: of the table; the angles themselves are computed in float32.
            device: where the table lives.
        """
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), _frequencies(config))
        scaling = config.rope_scaling
        factor = scaling.attention_factor if isinstance(scaling, YarnScaling) else 1.0
        cos, sin = angles.cos().mul_(factor), angles.sin().mul_(factor)
        # The first half of a rotated head is x1 cos - x2 sin and the second is x2 cos + x1 sin. With the sign kept
        # in the table, both halves are x cos + swapped(x) sin, which is three operators instead of six.
        self._cos = torch.cat((cos, cos), dim=-1).to(device, dtype)  # [num_positions, D]
        self._sin = torch.cat((-sin, sin), dim=-1).to(device, dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._cos.nbytes + self._sin.nbytes

    @property
    def half_tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of all positions, [num_positions, D / 2] each, the sines not negated."""
        half = self._cos.shape[1] // 2
        return self._cos[:, :half], self._sin[:, half:]

    def look_up(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines of a step.

        Args:
            positions: int64 [T].

        Returns:
            Two tensors [T, 1, D], to be passed to `rotate_`.
        """
        return self._cos.index_select(0, positions).unsqueeze(1), self._sin.index_select(0, positions).unsqueeze(1)


class Rotation:
    """The angles of one step's tokens.

    Attributes:
        cos_table: [num_positions, D / 2], of every position there can be.
        sin_table: likewise; not negated.
    """

    __slots__ = ("_embedding", "_looked_up", "_positions", "cos_table", "sin_table")

    def __init__(self, embedding: RotaryEmbedding, positions: torch.Tensor) -> None:
        self._embedding = embedding
        self._positions = positions
        self._looked_up: tuple[torch.Tensor, torch.Tensor] | None = None
        self.cos_table, self.sin_table = embedding.half_tables

    @property
    def looked_up(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines of the step's tokens, [T, 1, D] each, for `rotate_`; looked up at the first call."""
        if self._looked_up is None:
            self._looked_up = self._embedding.look_up(self._positions)
        return self._looked_up


def rotate_(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate queries or keys in place.

    Args:
        heads: [T, number of heads, D].
        cos: [T, 1, D], from `RotaryEmbedding.look_up`.
        sin: [T, 1, D], likewise.
    """
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    heads.mul_(cos).addcmul_(swapped, sin)


def _frequencies(config: ModelConfig) -> torch.Tensor:
    """How fast each pair of features turns, in radians a position: float32 [D / 2], the fastest first."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    match config.rope_scaling:
        case None:
            return frequencies
        case LinearScaling(factor):
            return frequencies / factor
        case Llama3Scaling() as llama3:
            return _partly_slowed(frequencies, _llama3_share_kept(frequencies, llama3), llama3.factor)
        case YarnScaling() as yarn:
            return _partly_slowed(frequencies, _yarn_share_kept(config, yarn), yarn.factor)


def _partly_slowed(frequencies: torch.Tensor, share_kept: torch.Tensor, factor: float) -> torch.Tensor:
    """Between the frequency as it is (share 1) and the one that is slower by the factor (share 0)."""
    return frequencies * share_kept + frequencies / factor * (1.0 - share_kept)


def _llama3_share_kept(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """0 for features whose wave is longer than the context of the pre-training, 1 for fast ones, between: by turns."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)  # in the original context
    share_kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return share_kept.clamp(0.0, 1.0)


def _yarn_share_kept(config: ModelConfig, scaling: YarnScaling) -> torch.Tensor:
    """1 up to the feature that turns `beta_fast` times, 0 from the one that turns `beta_slow` times, a line between."""

    def feature_that_turns(times: float) -> float:
        wave = scaling.original_max_position_embeddings / (2 * math.pi * times)
        return config.head_dim * math.log(wave) / (2 * math.log(config.rope_theta))

    first, last = feature_that_turns(scaling.beta_fast), feature_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = float(math.floor(first)), float(math.ceil(last))
    first, last = max(first, 0.0), min(last, config.head_dim - 1.0)
    width = last - first or 0.001  # a step, where the two fall together
    features = torch.arange(config.head_dim // 2, dtype=torch.float32)
    return 1.0 - ((features - first) / width).clamp(0.0, 1.0)
