"""Qwen2: the architecture of Qwen2, Qwen2.5 and what is made from them. The registry hands it to the engine.

A Llama with biases where query, key and value are made, which help it to go beyond the length it was trained with.
"""

from __future__ import annotations

from learnsgl.models.config import ModelConfig
from learnsgl.models.decoder import DecoderForCausalLM
from learnsgl.models.decoder_layer import OptionalParts


class Qwen2ForCausalLM(DecoderForCausalLM):
    """Biases in the query, key and value projections, and nowhere else.

    Source: Qwen2 Technical Report (Yang et al., 2024), section 2.2.1.
    """

    @staticmethod
    def optional_parts(config: ModelConfig) -> OptionalParts:
        """The same in every checkpoint: config.json has no field for it."""
        return OptionalParts(qkv_bias=True)
