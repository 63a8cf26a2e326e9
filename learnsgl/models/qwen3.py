"""Qwen3: the architecture of the dense Qwen3 models. The registry hands it to the engine.

In the place of Qwen2's biases each query and key head is normalised, which keeps the training stable. A head has 128
features in all sizes of the model, so that in the small ones the queries are wider than the hidden state.
"""

from __future__ import annotations

from learnsgl.models.config import ModelConfig
from learnsgl.models.decoder import DecoderForCausalLM
from learnsgl.models.decoder_layer import OptionalParts


class Qwen3ForCausalLM(DecoderForCausalLM):
    """Norms on query and key heads.

    Source: Qwen3 Technical Report (Yang et al., 2025), section 2.
    """

    @staticmethod
    def optional_parts(config: ModelConfig) -> OptionalParts:
        """The norms, and biases in attention where config.json says so; no published checkpoint has them."""
        bias = config.attention_bias
        return OptionalParts(qkv_bias=bias, o_bias=bias, qk_norm=True)
