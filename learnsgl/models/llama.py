"""Llama: the architecture of Llama 2 and 3, SmolLM2, TinyLlama and many more. The registry hands it to the engine.

The plain decoder. Few checkpoints have biases; those that do say so in config.json.
"""

from __future__ import annotations

from learnsgl.models.config import ModelConfig
from learnsgl.models.decoder import DecoderForCausalLM
from learnsgl.models.decoder_layer import OptionalParts


class LlamaForCausalLM(DecoderForCausalLM):
    """Biases everywhere in attention or the MLP, or nowhere, as config.json says.

    Source: Llama 2 (Touvron et al., 2023), section 2.2; Llama 3.1's rotary scaling is in `rope.py`.
    """

    @staticmethod
    def optional_parts(config: ModelConfig) -> OptionalParts:
        """`attention_bias` and `mlp_bias` of config.json."""
        bias = config.attention_bias
        return OptionalParts(qkv_bias=bias, o_bias=bias, mlp_bias=config.mlp_bias)
