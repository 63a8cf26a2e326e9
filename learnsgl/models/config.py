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
from learnsgl.models.architectures import Architecture, find_architecture
from learnsgl.models.rope_scaling import RopeScaling, YarnScaling, read_rope


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and switches of one model.

    Attributes:
        architecture: first entry of `architectures`, such as `LlamaForCausalLM`.
        max_position_embeddings: tokens of the context, YaRN's stretching included.
        attention_bias: whether attention's projections have biases, where the architecture leaves it to the file.
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
    rope_scaling: RopeScaling | None
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
        architecture = find_architecture(raw["architectures"][0])
        raw = {**architecture.defaults, **raw}
        _refuse_what_is_not_built(raw, architecture, where)
        rope_theta, rope_scaling = read_rope(raw, where)
        num_heads = int(raw["num_attention_heads"])
        num_kv_heads = int(raw.get("num_key_value_heads") or num_heads)
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} attention heads can't be shared out evenly over {num_kv_heads} KV heads")
        hidden_size = int(raw["hidden_size"])
        head_dim = int(raw.get("head_dim") or hidden_size // num_heads)
        if head_dim % 2:
            raise ValueError(f"a head of {head_dim} features can't be rotated in pairs")
        eos = generation.get("eos_token_id")
        return ModelConfig(
            architecture=architecture.name,
            vocab_size=int(raw["vocab_size"]),
            hidden_size=hidden_size,
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            max_position_embeddings=_context_len(raw, rope_scaling),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            mlp_bias=bool(raw.get("mlp_bias", False)),
            dtype=raw.get("dtype") or raw.get("torch_dtype"),
            eos_ids=_token_ids(eos if eos is not None else raw.get("eos_token_id")),
        )
    except KeyError as error:
        raise UnsupportedModelError(f"{where} has no {error.args[0]!r}, which every supported model needs") from None
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise UnsupportedModelError(f"{where} holds a value that can't be used: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what bytes that aren't UTF-8 raise
        raise UnsupportedModelError(f"{path} isn't valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnsupportedModelError(f"{path} must hold a JSON object, and holds a {type(value).__name__}")
    return value


def _refuse_what_is_not_built(raw: Mapping[str, Any], architecture: Architecture, where: str) -> None:
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "an unnamed method")
        raise UnsupportedModelError(
            f"{where} says that the weights are quantised ({method}); give a checkpoint in float32, bfloat16 or float16"
        )
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"{where} asks for the activation {activation!r}; only 'silu' is built")
    if unknown := set(raw.get("layer_types") or ()) - {"full_attention", "sliding_attention"}:
        raise UnsupportedModelError(f"{where} has layers of the kinds {sorted(unknown)}; only attention is built")
    if _needs_a_window(raw, architecture):
        raise UnsupportedModelError(
            f"{where} asks for attention in a sliding window of {raw['sliding_window']} tokens, and its context is "
            f"{raw['max_position_embeddings']}; windows aren't built. Take a model without one (Mistral from v0.2 on, "
            "Qwen with use_sliding_window false)"
        )


def _needs_a_window(raw: Mapping[str, Any], architecture: Architecture) -> bool:
    """Whether some layer doesn't see the whole context: a window as long as the context is none."""
    kinds = raw.get("layer_types")
    if architecture.is_windowed:
        is_asked_for = True
    elif kinds is None:
        num_full = int(raw.get("max_window_layers") or 0)  # the first layers see everything
        is_asked_for = bool(raw.get("use_sliding_window")) and num_full < int(raw["num_hidden_layers"])
    else:
        is_asked_for = "sliding_attention" in kinds
    window = raw.get("sliding_window")
    return is_asked_for and window is not None and int(window) < int(raw["max_position_embeddings"])


def _context_len(raw: Mapping[str, Any], scaling: RopeScaling | None) -> int:
    """What the file says; a file to which someone has added YaRN as Qwen's model cards advise still says the old."""
    said = int(raw["max_position_embeddings"])
    if isinstance(scaling, YarnScaling):
        return max(said, int(scaling.factor * scaling.original_max_position_embeddings))
    return said


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(token) for token in value) if isinstance(value, list) else (int(value),)
