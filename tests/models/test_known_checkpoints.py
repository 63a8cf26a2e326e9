"""The configurations of well-known checkpoints: each is read or refused, and gives the tensors of transformers' model.

Models are built on the `meta` device, so that only names and shapes are compared and no memory is taken.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from learnsgl.errors import UnsupportedModelError
from learnsgl.hub.dummy import PRESETS
from learnsgl.models.config import parse_model_config
from learnsgl.models.registry import model_class
from learnsgl.models.rope_scaling import Llama3Scaling, YarnScaling

META = torch.device("meta")


def sizes(hidden: int, inter: int, layers: int, heads: int, kv_heads: int, vocab: int, context: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocab, "max_position_embeddings": context,
        "hidden_act": "silu",
    }  # fmt: skip


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "tie_word_embeddings": False}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False, "head_dim": 128,
    "attention_bias": False, "rope_theta": 1e6, "rope_scaling": None, "sliding_window": None,
}  # fmt: skip
LLAMA32_ROPE = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip

KNOWN: dict[str, dict[str, Any]] = {
    **{name: dict(preset.config) for name, preset in PRESETS.items()},
    "smollm2-135m": {
        **LLAMA, **sizes(576, 1536, 30, 9, 3, 49152, 8192), "rope_theta": 100000, "tie_word_embeddings": True,
    },
    "tinyllama-1.1b": {**LLAMA, **sizes(2048, 5632, 22, 32, 4, 32000, 2048), "tie_word_embeddings": False},
    "llama-3.2-1b": {
        **LLAMA, **sizes(2048, 8192, 16, 32, 8, 128256, 131072), "head_dim": 64, "rope_theta": 500000.0,
        "rope_scaling": LLAMA32_ROPE, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
    },
    "mistral-7b-v0.3": {
        **MISTRAL, **sizes(4096, 14336, 32, 32, 8, 32768, 32768), "rope_theta": 1e6, "sliding_window": None,
    },
    "mistral-nemo-12b": {
        **MISTRAL, **sizes(5120, 14336, 40, 32, 8, 131072, 131072), "head_dim": 128, "rope_theta": 1e6,
        "sliding_window": None,
    },
    "qwen2.5-0.5b": {
        **QWEN2, **sizes(896, 4864, 24, 14, 2, 151936, 32768), "rope_theta": 1e6, "sliding_window": 32768,
        "max_window_layers": 21, "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        **QWEN2, **sizes(3584, 18944, 28, 28, 4, 152064, 32768), "rope_theta": 1e6, "sliding_window": 131072,
        "max_window_layers": 28, "tie_word_embeddings": False,
    },
    "qwen2.5-7b-yarn": {
        **QWEN2, **sizes(3584, 18944, 28, 28, 4, 152064, 32768), "rope_theta": 1e6, "tie_word_embeddings": False,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
    },
    "qwen3-8b": {
        **QWEN3, **sizes(4096, 12288, 36, 32, 8, 151936, 40960), "max_window_layers": 36, "tie_word_embeddings": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_tensors_are_those_of_transformers(name: str) -> None:
    raw = {"rms_norm_eps": 1e-5, **KNOWN[name], "num_hidden_layers": 2}
    config = parse_model_config(raw, {}, where=name)
    ours = model_class(config.architecture)(config, num_positions=1, dtype=torch.bfloat16, device=META)
    with META:
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**raw))
    expected = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert {key: tuple(place.shape) for key, place in ours.checkpoint_tensors().items()} == expected
    assert config.head_dim == theirs.model.layers[0].self_attn.head_dim
    assert config.rope_theta == theirs.config.rope_parameters["rope_theta"]


def test_contexts_and_scalings() -> None:
    def read(name: str) -> Any:
        return parse_model_config({"rms_norm_eps": 1e-5, **KNOWN[name]}, {}, where=name)

    assert read("llama-3.2-1b").rope_scaling == Llama3Scaling(32.0, 1.0, 4.0, 8192)
    assert read("llama-3.1-8b").eos_ids == (128001, 128008, 128009)
    yarn = read("qwen2.5-7b-yarn")
    assert isinstance(yarn.rope_scaling, YarnScaling)
    assert yarn.max_position_embeddings == 131072


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (  # Mistral 7B v0.1
            {**MISTRAL, **sizes(4096, 14336, 32, 32, 8, 32000, 32768), "sliding_window": 4096},
            "sliding window of 4096 tokens, and its context is 32768",
        ),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "'Qwen3MoeForCausalLM' isn't built; there are: Llama"),
        ({"architectures": ["Gemma3ForCausalLM"]}, "'Gemma3ForCausalLM' isn't built"),
        (  # a vision model, whose sizes lie deeper
            {"architectures": ["Mistral3ForConditionalGeneration"]}, "'Mistral3ForConditionalGeneration' isn't built",
        ),
        (  # Llama 2 with a context that grows as it is used
            {**LLAMA, **sizes(64, 64, 2, 4, 4, 99, 64), "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope scaling 'dynamic'",
        ),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_its_name(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedModelError, match=said):
        parse_model_config(raw, {}, where="config.json")
