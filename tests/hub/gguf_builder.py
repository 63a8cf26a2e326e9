"""Writes small GGUF files of random models, quantised as real ones are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from learnsgl.hub import tiny
from learnsgl.hub.builtin import WheelModel
from learnsgl.hub.byte_level import CHATML_TEMPLATE, byte_symbols
from learnsgl.hub.safetensors_file import Float32Array

MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "12 3", "Ã ©"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[rest]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def permute(rows: Float32Array, num_heads: int) -> Float32Array:
    """The order in which llama.cpp's converter stores q and k."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def vocabulary() -> list[str]:
    return [*SPECIAL, *byte_symbols(), *(merge.replace(" ", "") for merge in MERGES)]


def write_gguf(path: Path, *, arch: str = "llama", metadata: dict[str, Any] | None = None,
               extra_tensors: dict[str, Float32Array] | None = None, tied: bool = True) -> None:  # fmt: skip
    """A model with tiny-random's sizes; `metadata` overrides single values, `None` leaves one out."""
    config, tokens = tiny.CONFIG, vocabulary()
    values: dict[str, Any] = {
        "block_count": config["num_hidden_layers"], "context_length": 512, "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"], "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"], "rope.dimension_count": config["head_dim"],
    }  # fmt: skip
    values = {f"{arch}.{key}": value for key, value in values.items()} | {
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5, f"{arch}.rope.freq_base": 50000.0,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.chat_template": CHATML_TEMPLATE,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2,
    }  # fmt: skip
    writer = GGUFWriter(path, arch)
    for key, value in (values | (metadata or {})).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_string(key, value)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    for name, data in (model_weights(tied) | own_weights(arch)).items():
        add_tensor(writer, gguf_name(name), data, permuted=arch == "llama")
    for name, data in (extra_tensors or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_weights(tied: bool) -> dict[str, Float32Array]:
    weights = tiny.random_weights(np.random.default_rng(7))
    rng = np.random.default_rng(8)
    weights["model.embed_tokens.weight"] = rng.standard_normal((len(vocabulary()), 64), dtype=np.float32)
    weights["lm_head.weight"] = rng.standard_normal((len(vocabulary()), 64), dtype=np.float32)
    if tied:
        del weights["lm_head.weight"]
    return weights


def own_weights(arch: str) -> dict[str, Float32Array]:
    """What an architecture has beside Llama's."""
    rng, config = np.random.default_rng(9), tiny.CONFIG
    head_dim, num_heads, num_kv_heads = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    sizes = {
        "qwen2": {"q_proj.bias": num_heads, "k_proj.bias": num_kv_heads, "v_proj.bias": num_kv_heads},
        "qwen3": {"q_norm.weight": 1, "k_norm.weight": 1},
    }
    return {
        f"model.layers.{layer}.self_attn.{name}": rng.standard_normal(heads * head_dim, dtype=np.float32)
        for layer in range(config["num_hidden_layers"])
        for name, heads in sizes.get(arch, {}).items()
    }


def add_tensor(writer: GGUFWriter, name: str, data: Float32Array, *, permuted: bool) -> None:
    if permuted and "attn_q" in name:
        data = permute(data, tiny.CONFIG["num_attention_heads"])
    if permuted and "attn_k" in name:
        data = permute(data, tiny.CONFIG["num_key_value_heads"])
    if data.ndim == 1:
        writer.add_tensor(name, data)
        return
    kind = GGMLQuantizationType.Q8_0 if "token_embd" in name else GGMLQuantizationType.Q4_1
    writer.add_tensor(name, quantize(data, kind), raw_dtype=kind)


@dataclass(frozen=True)
class FakeWheel:
    """A wheel on disk, and the model that it holds with its true hashes."""

    path: Path
    model: WheelModel
