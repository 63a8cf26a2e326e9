"""Which class runs which architecture. The engine asks when it loads a model.

A new architecture is an entry in `architectures.py`, one file beside this one, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from learnsgl.attention.backend import AttentionBackend, ForwardBatch
from learnsgl.models.architectures import find_architecture
from learnsgl.models.config import ModelConfig
from learnsgl.models.layers import LinearLayer
from learnsgl.models.llama import LlamaForCausalLM
from learnsgl.models.mistral import MistralForCausalLM
from learnsgl.models.ops import Ops
from learnsgl.models.qwen2 import Qwen2ForCausalLM
from learnsgl.models.qwen3 import Qwen3ForCausalLM


class CausalLM(Protocol):
    """What the engine asks of a model."""

    ignored_tensors: tuple[str, ...]
    """Endings of names that a checkpoint may hold and the model doesn't need."""

    def __init__(self, config: ModelConfig, *, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate the weights; `num_positions` is the longest sequence that will be asked for."""
        ...

    def checkpoint_tensors(self) -> Mapping[str, torch.Tensor]:
        """Every tensor that a checkpoint must hold, by its name there: the place that it is copied to."""
        ...

    def convert_linears(self, convert: Callable[[LinearLayer], LinearLayer]) -> None:
        """Put another form in the place of each linear layer, once the weights are loaded."""
        ...

    def weight_bytes(self) -> int:
        """Bytes of all weights as they are now."""
        ...

    def table_bytes(self) -> int:
        """Bytes of tables that are computed and not read, such as that of the rotation."""
        ...

    def use_ops(self, ops: Ops) -> None:
        """Compute layers with these operators; before, they are plain torch."""
        ...

    def forward(
        self, batch: ForwardBatch, attention: AttentionBackend, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the tokens of a step, and return the logits [n, V] of those that want them, in `out` if it is given."""
        ...


MODEL_CLASSES: Mapping[str, type[CausalLM]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
    "MistralForCausalLM": MistralForCausalLM,
    "Qwen2ForCausalLM": Qwen2ForCausalLM,
    "Qwen3ForCausalLM": Qwen3ForCausalLM,
}


def model_class(architecture: str) -> type[CausalLM]:
    """The class for the first entry of config.json's `architectures`.

    Raises:
        UnsupportedModelError: naming the architectures that there are.
    """
    return MODEL_CLASSES[find_architecture(architecture).name]
