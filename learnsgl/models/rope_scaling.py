"""How a config.json says that rotary positions are stretched beyond the context of the pre-training. No torch here.

`config.py` reads it, and `rope.py` applies it. Files of transformers 4 (`rope_theta`, `rope_scaling`) and of
transformers 5 (`rope_parameters`) mean the same; a way of scaling that isn't built is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learnsgl.errors import UnsupportedModelError


@dataclass(frozen=True)
class LinearScaling:
    """Positions are divided by a factor, as in LongChat and Vicuna 1.5."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 and later stretch their rotary embedding."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN, with which Qwen2.5 and Qwen3 reach 131,072 tokens.

    Attributes:
        factor: by which the context grows.
        original_max_position_embeddings: context of the pre-training.
        beta_fast: features that turn at least so often in the original context are kept as they are.
        beta_slow: those that turn at most so often are slowed by the whole factor.
        attention_factor: what cosines and sines are multiplied by, so that its square scales the logits of attention.
        truncate: whether the bounds between fast and slow features are rounded outwards to whole features.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling

BUILT = ("default", "linear", "llama3", "yarn")


def read_rope(raw: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Base of the frequencies, and the scaling; `None` for the plain rotary embedding.

    Args:
        raw: config.json.
        where: what an error calls the file.

    Raises:
        UnsupportedModelError: a scaling that isn't built, or one that rotates a part of each head only.
        KeyError, TypeError, ValueError: a field is missing, or holds something else; the caller names the file.
    """
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if any(isinstance(value, Mapping) for value in given.values()):
        raise UnsupportedModelError(f"{where} rotates some layers in another way than others; it isn't built")
    rope = {"rope_theta": raw.get("rope_theta") or 10000.0, **given}
    if float(rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModelError(f"{where} rotates a part of each head only (partial_rotary_factor); it isn't built")
    theta, kind = float(rope["rope_theta"]), rope.get("rope_type") or rope.get("type") or "default"
    if kind not in BUILT:
        raise UnsupportedModelError(f"{where} asks for the rope scaling {kind!r}; built are: {', '.join(BUILT)}")
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, LinearScaling(_factor(rope["factor"]))
    original = int(rope.get("original_max_position_embeddings") or raw["max_position_embeddings"])
    if kind == "yarn":
        return theta, _read_yarn(rope, raw, original)
    return theta, Llama3Scaling(
        factor=_factor(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
    )


def _read_yarn(rope: Mapping[str, Any], raw: Mapping[str, Any], original: int) -> YarnScaling:
    factor = _factor(rope.get("factor") or int(raw["max_position_embeddings"]) / original)
    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        mscale, of_all = rope.get("mscale"), rope.get("mscale_all_dim")
        attention_factor = (
            _logarithmic(factor, float(mscale)) / _logarithmic(factor, float(of_all))
            if mscale and of_all
            else _logarithmic(factor, 1.0)
        )
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=float(rope.get("beta_fast") or 32.0),
        beta_slow=float(rope.get("beta_slow") or 1.0),
        attention_factor=float(attention_factor),
        truncate=bool(rope.get("truncate", True)),
    )


def _logarithmic(factor: float, scale: float) -> float:
    """YaRN's own choice of the attention factor (Peng et al., 2023, section 3.4)."""
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0


def _factor(value: Any) -> float:
    factor = float(value)
    if not factor >= 1.0:
        raise ValueError(f"the factor of the rope scaling is {value}; it must be at least 1")
    return factor
