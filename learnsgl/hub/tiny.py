"""`tiny-random`: a small Llama with random weights and a tokenizer of bytes, made in a moment from a fixed seed.

For tests, and for trying the server out without any download. It speaks nonsense, but the same nonsense everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from learnsgl.hub.byte_level import CHATML_TEMPLATE, byte_level_tokenizer, byte_symbols, split_by, write_json
from learnsgl.hub.safetensors_file import Float32Array, write_safetensors

NAME = "tiny-random"
SEED = 2026
SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
"""Tokens 256 to 259, after the 256 bytes."""
BOS, EOS, IM_START, IM_END = range(256, 256 + len(SPECIAL_TOKENS))

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256 + len(SPECIAL_TOKENS),
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": BOS,
    "eos_token_id": [EOS, IM_END],
    "dtype": "float32",
}


def build_tiny_random(folder: Path) -> None:
    """Write the model's files into `folder`."""
    symbols = byte_symbols()
    vocab = {symbol: byte for byte, symbol in enumerate(symbols)}
    vocab |= {token: 256 + index for index, token in enumerate(SPECIAL_TOKENS)}
    byte_level_tokenizer(vocab, [], split_by(), special_tokens=SPECIAL_TOKENS).save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|bos|>",
            "eos_token": "<|im_end|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
            "chat_template": CHATML_TEMPLATE,
        },
    )
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": [EOS, IM_END]})
    weights = random_weights(np.random.default_rng(SEED))
    write_safetensors(folder / "model.safetensors", {k: v.shape for k, v in weights.items()}, weights.items())


def random_weights(rng: np.random.Generator) -> dict[str, Float32Array]:
    """Weights that keep activations near 1 in size, so that attention and logits have clear favourites."""
    hidden: int = CONFIG["hidden_size"]
    inner: int = CONFIG["intermediate_size"]
    vocab: int = CONFIG["vocab_size"]
    q_size: int = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    kv_size: int = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Float32Array:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(gain / columns**0.5)

    def norm() -> Float32Array:
        return np.float32(1.0) + np.float32(0.1) * rng.standard_normal(hidden, dtype=np.float32)

    weights = {"model.embed_tokens.weight": matrix(vocab, hidden, gain=hidden**0.5)}
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": norm(),
            prefix + "self_attn.q_proj.weight": matrix(q_size, hidden, gain=1.5),
            prefix + "self_attn.k_proj.weight": matrix(kv_size, hidden, gain=1.5),
            prefix + "self_attn.v_proj.weight": matrix(kv_size, hidden),
            prefix + "self_attn.o_proj.weight": matrix(hidden, q_size),
            prefix + "post_attention_layernorm.weight": norm(),
            prefix + "mlp.gate_proj.weight": matrix(inner, hidden),
            prefix + "mlp.up_proj.weight": matrix(inner, hidden),
            prefix + "mlp.down_proj.weight": matrix(hidden, inner),
        }
    return weights | {"model.norm.weight": norm(), "lm_head.weight": matrix(vocab, hidden, gain=2.0)}
