"""What a model folder's config.json says, as one typed object, in the field's words.

The registry reads it to find the class, the model to size its layers, and the engine to size the KV cache. Files
written by transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and by transformers 5 (`rope_parameters`,
`dtype`) mean the same here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnsgl.errors import ModelNotFoundError, UnsupportedModelError


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 stretches its rotary embedding; `models/rope.py` applies it."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and switches of one model.

    Attributes:
        architecture: first entry of `architectures`, such as `LlamaForCausalLM`.
        dtype: name of the dtype that the weights were saved in, such as `bfloat16`; `None` where the file says none.
        eos_ids: tokens that end a sequence; empty where the files name none.
        rope_scaling: `None` for the plain rotary embedding.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    dtype: str | None
    eos_ids: tuple[int, ...]


def load_model_config(folder: Path) -> ModelConfig:
    """Read `config.json`, and `generation_config.json` where there is one.

    Raises:
        ModelNotFoundError: the folder holds no config.json.
        UnsupportedModelError: the file isn't valid, misses a field, or asks for something that isn't built.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no config.json; give a folder in Hugging Face's layout")
    raw = _read_json(folder / "config.json")
    generation_file = folder / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.is_file() else {}
    return parse_model_config(raw, generation, where=str(folder / "config.json"))


def parse_model_config(raw: Mapping[str, Any], generation: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Turn the JSON objects into a `ModelConfig`.

    Args:
        raw: config.json.
        generation: generation_config.json; its end-of-sequence tokens come before those of config.json.
        where: what error messages call the file.

    Raises:
        UnsupportedModelError: see `load_model_config`.
    """
    try:
        _refuse_what_is_not_built(raw, where)
        rope = _rope_parameters(raw)
        num_heads = int(raw["num_attention_heads"])
        num_kv_heads = int(raw.get("num_key_value_heads") or num_heads)
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} attention heads can't be shared out evenly over {num_kv_heads} KV heads")
        hidden_size = int(raw["hidden_size"])
        eos = generation.get("eos_token_id")
        return ModelConfig(
            architecture=str(raw["architectures"][0]),
            vocab_size=int(raw["vocab_size"]),
            hidden_size=hidden_size,
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=int(raw.get("head_dim") or hidden_size // num_heads),
            max_position_embeddings=int(raw["max_position_embeddings"]),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope["rope_theta"]),
            rope_scaling=_rope_scaling(rope, raw, where),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            mlp_bias=bool(raw.get("mlp_bias", False)),
            dtype=raw.get("dtype") or raw.get("torch_dtype"),
            eos_ids=_token_ids(eos if eos is not None else raw.get("eos_token_id")),
        )
    except KeyError as error:
        raise UnsupportedModelError(f"{where} has no {error.args[0]!r}, which every supported model needs") from None
    except (TypeError, ValueError, IndexError) as error:
        raise UnsupportedModelError(f"{where} holds a value that can't be used: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what bytes that aren't UTF-8 raise
        raise UnsupportedModelError(f"{path} isn't valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnsupportedModelError(f"{path} must hold a JSON object, and holds a {type(value).__name__}")
    return value


def _refuse_what_is_not_built(raw: Mapping[str, Any], where: str) -> None:
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "an unnamed method")
        raise UnsupportedModelError(
            f"{where} says that the weights are quantised ({method}); give a checkpoint in float32, bfloat16 or float16"
        )
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"{where} asks for the activation {activation!r}; only 'silu' is built")


def _rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Theta and scaling in one mapping, as transformers 5 writes them, from either form of the file."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return {"rope_theta": raw.get("rope_theta") or 10000.0, **scaling}


def _rope_scaling(rope: Mapping[str, Any], raw: Mapping[str, Any], where: str) -> Llama3Scaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if float(rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModelError(f"{where} rotates a part of each head only (partial_rotary_factor); it isn't built")
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnsupportedModelError(f"{where} asks for the rope scaling {kind!r}; 'default' and 'llama3' are built")
    return Llama3Scaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
    )


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(token) for token in value) if isinstance(value, list) else (int(value),)
