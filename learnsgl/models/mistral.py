"""Mistral: Mistral 7B from v0.2 on, Mistral Nemo and Mistral Small. The registry hands it to the engine.

A Llama without biases. The sliding window of Mistral 7B v0.1 isn't built: `config.py` refuses a file that needs it.
"""

from __future__ import annotations

from learnsgl.models.config import ModelConfig
from learnsgl.models.decoder import DecoderForCausalLM
from learnsgl.models.decoder_layer import OptionalParts


class MistralForCausalLM(DecoderForCausalLM):
    """No optional part at all.

    Source: Mistral 7B (Jiang et al., 2023), section 2.
    """

    @staticmethod
    def optional_parts(config: ModelConfig) -> OptionalParts:
        """None, whatever config.json says."""
        return OptionalParts()
