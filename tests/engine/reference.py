"""Small random models of every architecture, made and run by transformers: what our engine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}

ARCHITECTURES: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}

SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {"num_attention_heads": 6, "num_key_value_heads": 2},
    "mha_biases": {
        "num_attention_heads": 4, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True,
    },
    "mqa_tied": {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama3_wide_heads": {
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rope_parameters": LLAMA3_ROPE,
    },
    "qwen2": {"architecture": "qwen2", "num_attention_heads": 6, "num_key_value_heads": 2},
    "qwen2_tied_yarn": {
        "architecture": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True,
        "rope_parameters": YARN_ROPE,
    },
    "qwen3_tied": {
        "architecture": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "qwen3_mqa_biases": {
        "architecture": "qwen3", "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 20,
        "attention_bias": True,
    },
    "mistral": {
        "architecture": "mistral", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "sliding_window": None,
    },
}  # fmt: skip
"""What is put into the configuration; `architecture` is `llama` where it isn't said."""


def make_model(
    folder: Path, *, architecture: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """A random model, saved to `folder`. Its weights are large enough that tokens differ clearly in likelihood."""
    settings: dict[str, Any] = {
        "vocab_size": 203, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "initializer_range": 0.25,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(seed)
    make_config, make = ARCHITECTURES[architecture]
    model = make(make_config(**{**settings, **changes})).eval()
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases, which start as ones and zeros
                parameter.add_(0.3 * torch.randn_like(parameter))
            parameter.data = parameter.data.to(dtype)  # not `model.to`, which rounds the rotary frequencies too
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def reference_logits(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """float32 [len(tokens), V], without any cache."""
    return model(torch.tensor([list(tokens)])).logits[0].float()


def rounding_margin(exact: PreTrainedModel, rounded: PreTrainedModel, tokens: Sequence[int]) -> float:
    """How far apart two logits may lie whose order the roundings of a dtype can change: twice its greatest error here.

    It is measured and not assumed, because a random model passes an error on very unevenly: the greatest error of a
    logit is 10 to 20 times the usual one.

    Args:
        exact: the model in float32.
        rounded: the same model, its weights and activations in the dtype.
        tokens: a prompt and what was generated.
    """
    return 2 * float((reference_logits(exact, tokens) - reference_logits(rounded, tokens)).abs().max())


def assert_same_greedy(model: PreTrainedModel, prompt: Sequence[int], ours: Sequence[int], *, margin: float) -> int:
    """Greedy tokens are equal, or differ first where the two best logits lie closer than `margin`.

    Returns:
        How many tokens were compared: those up to the first difference.
    """
    logits = reference_logits(model, [*prompt, *ours])
    for index, token in enumerate(ours):
        at = logits[len(prompt) + index - 1]
        if token != int(at.argmax()):
            gap = float(at.max() - at[token])
            assert gap <= margin, f"token {index} is {token}; {int(at.argmax())} is better by {gap}"
            return index
    return len(ours)
