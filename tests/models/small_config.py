"""A small config.json for tests, with changes."""

from __future__ import annotations

from typing import Any

from learnsgl.models.config import ModelConfig, parse_model_config

RAW: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 8, "intermediate_size": 6,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "eos_token_id": 2,
}  # fmt: skip


def small_config(**changes: Any) -> ModelConfig:
    return parse_model_config({**RAW, **changes}, {}, where="config.json")
