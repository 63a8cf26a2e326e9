"""A decoder-only language model: embedding, layers, norm, output layer. Every architecture here is one of its kind.

`llama.py`, `mistral.py`, `qwen2.py` and `qwen3.py` say which optional parts their layers have, and are otherwise this.
Tokens of all requests of a step lie behind each other in one [T, hidden] matrix; only attention knows which token
belongs to whom.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F

from learnsgl.attention.backend import AttentionBackend, ForwardBatch
from learnsgl.models.config import ModelConfig
from learnsgl.models.decoder_layer import DecoderLayer, OptionalParts
from learnsgl.models.layers import Linear, LinearLayer, RMSNorm
from learnsgl.models.ops import Ops, TorchOps
from learnsgl.models.rope import RotaryEmbedding, Rotation


class DecoderForCausalLM(ABC):
    """Token ids in, logits out (`CausalLM` in `registry.py`)."""

    def __init__(self, config: ModelConfig, *, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate the weights, uninitialised.

        Args:
            config: the sizes.
            num_positions: longest sequence that the rotary table must cover.
            dtype: of weights and activations.
            device: where they live; on `meta` they have shapes and take no memory.
        """
        self.config = config
        self.ops: Ops = TorchOps()
        self.ignored_tensors: tuple[str, ...] = ("rotary_emb.inv_freq",)
        self.embed_tokens = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device)
        parts = self.optional_parts(config)
        self.layers = [DecoderLayer(config, parts, number, dtype, device) for number in range(config.num_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, device=device)
        self.lm_head: LinearLayer
        if config.tie_word_embeddings:
            self.lm_head = Linear(self.embed_tokens)
            self.ignored_tensors = (*self.ignored_tensors, "lm_head.weight")
        else:
            self.lm_head = Linear.empty(config.vocab_size, config.hidden_size, bias=False, dtype=dtype, device=device)
        self.rotary = RotaryEmbedding(config, num_positions=num_positions, dtype=dtype, device=device)

    @staticmethod
    @abstractmethod
    def optional_parts(config: ModelConfig) -> OptionalParts:
        """What the layers of this architecture have beside what all have."""

    def checkpoint_tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor of a checkpoint, by its name there: the (slice of a) weight that it is copied to."""
        places = {"model.embed_tokens.weight": self.embed_tokens, "model.norm.weight": self.norm.weight}
        if not self.config.tie_word_embeddings:
            assert isinstance(self.lm_head, Linear), "weights are loaded before layers are converted"
            places["lm_head.weight"] = self.lm_head.weight
        for number, layer in enumerate(self.layers):
            places.update((f"model.layers.{number}.{name}", place) for name, place in layer.checkpoint_tensors())
        return places

    def convert_linears(self, convert: Callable[[LinearLayer], LinearLayer]) -> None:
        """Put another form in the place of each linear layer, once the weights are loaded.

        One after the other, so that hardly more memory is needed than before; but an embedding that is tied to the
        output layer stays as it is, beside the converted copy.
        """
        for layer in self.layers:
            layer.convert_linears(convert)
        self.lm_head = convert(self.lm_head)

    def use_ops(self, ops: Ops) -> None:
        """Compute layers with other operators than plain torch."""
        self.ops = ops

    def weight_bytes(self) -> int:
        """Bytes of all weights as they are now; those of a tied output layer count once."""
        linears = [self.lm_head, *(linear for layer in self.layers for linear in layer.linears())]
        norms = [self.norm, *(norm for layer in self.layers for norm in layer.norms())]
        tied = isinstance(self.lm_head, Linear) and self.lm_head.weight is self.embed_tokens
        embedding = 0 if tied else self.embed_tokens.nbytes
        return embedding + sum(linear.nbytes for linear in linears) + sum(norm.weight.nbytes for norm in norms)

    def table_bytes(self) -> int:
        """Bytes of what is computed from the configuration: the rotary table."""
        return self.rotary.nbytes

    def forward(
        self, batch: ForwardBatch, attention: AttentionBackend, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run one step.

        Args:
            batch: the step's T tokens and where they stand.
            attention: has planned this batch.
            out: [number of wanted tokens, V]; where the logits go. CUDA graphs share one such tensor.

        Returns:
            Logits [number of wanted tokens, V], in the weights' dtype.
        """
        hidden = F.embedding(batch.input_ids, self.embed_tokens)  # [T, hidden]
        rotation = Rotation(self.rotary, batch.positions)
        x: torch.Tensor | None = None
        for layer in self.layers:
            x = layer.forward(x, hidden, rotation, attention, self.ops)
        if batch.logit_indices is not None:
            hidden = hidden.index_select(0, batch.logit_indices)
            x = None if x is None else x.index_select(0, batch.logit_indices)
        normed = self.ops.add_and_norm(x, hidden, self.norm)
        if out is None:
            return self.lm_head(normed)
        assert isinstance(self.lm_head, Linear), "a converted layer writes where it likes"
        return torch.mm(normed, self.lm_head.weight.t(), out=out)
