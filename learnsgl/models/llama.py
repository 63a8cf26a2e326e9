"""Llama: the architecture of Llama 2 and 3, SmolLM2, TinyLlama and many more. The registry hands it to the engine.

Tokens of all requests of a step lie behind each other in one [T, hidden] matrix; only attention knows which token
belongs to whom. Query, key and value are one fused matrix, gate and up another, so that a layer is four products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from learnsgl.attention.backend import AttentionBackend, ForwardBatch
from learnsgl.models.config import ModelConfig
from learnsgl.models.layers import Linear, LinearLayer, RMSNorm, silu_and_mul
from learnsgl.models.rope import RotaryEmbedding, rotate_


class LlamaForCausalLM:
    """Token ids in, logits out.

    Source: Llama 2 (Touvron et al., 2023), section 2.2; grouped-query attention from Ainslie et al., 2023.
    """

    def __init__(self, config: ModelConfig, *, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate the weights, uninitialised.

        Args:
            config: the sizes.
            num_positions: longest sequence that the rotary table must cover.
            dtype: of weights and activations.
            device: where they live.
        """
        self.config = config
        self.ignored_tensors: tuple[str, ...] = ("rotary_emb.inv_freq",)
        self.embed_tokens = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device)
        self.layers = [_DecoderLayer(config, number, dtype, device) for number in range(config.num_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, device=device)
        self.lm_head: LinearLayer
        if config.tie_word_embeddings:
            self.lm_head = Linear(self.embed_tokens)
            self.ignored_tensors = (*self.ignored_tensors, "lm_head.weight")
        else:
            self.lm_head = Linear.empty(config.vocab_size, config.hidden_size, bias=False, dtype=dtype, device=device)
        self.rotary = RotaryEmbedding(config, num_positions=num_positions, dtype=dtype, device=device)

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
            layer.qkv_proj, layer.o_proj = convert(layer.qkv_proj), convert(layer.o_proj)
            layer.gate_up_proj, layer.down_proj = convert(layer.gate_up_proj), convert(layer.down_proj)
        self.lm_head = convert(self.lm_head)

    def weight_bytes(self) -> int:
        """Bytes of all weights as they are now; those of a tied output layer count once."""
        layers = [self.lm_head, *(linear for layer in self.layers for linear in layer.linears())]
        tied = isinstance(self.lm_head, Linear) and self.lm_head.weight is self.embed_tokens
        norms = self.norm.weight.nbytes * (1 + 2 * len(self.layers))
        return norms + sum(layer.nbytes for layer in layers) + (0 if tied else self.embed_tokens.nbytes)

    def forward(self, batch: ForwardBatch, attention: AttentionBackend) -> torch.Tensor:
        """Run one step.

        Args:
            batch: the step's T tokens and where they stand.
            attention: has planned this batch.

        Returns:
            Logits [number of wanted tokens, V], in the weights' dtype.
        """
        hidden = F.embedding(batch.input_ids, self.embed_tokens)  # [T, hidden]
        cos, sin = self.rotary.look_up(batch.positions)
        for layer in self.layers:
            layer.forward(hidden, cos, sin, attention)
        if batch.logit_indices is not None:
            hidden = hidden.index_select(0, batch.logit_indices)
        return self.lm_head(self.norm(hidden))


class _DecoderLayer:
    def __init__(self, config: ModelConfig, number: int, dtype: torch.dtype, device: torch.device) -> None:
        def linear(out_features: int, in_features: int, bias: bool) -> LinearLayer:
            return Linear.empty(out_features, in_features, bias=bias, dtype=dtype, device=device)

        self.number = number
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, device=device)
        num_qkv_heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv_proj = linear(num_qkv_heads * config.head_dim, config.hidden_size, config.attention_bias)
        self.o_proj = linear(config.hidden_size, config.num_heads * config.head_dim, config.attention_bias)
        self.post_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, device=device)
        self.gate_up_proj = linear(2 * config.intermediate_size, config.hidden_size, config.mlp_bias)
        self.down_proj = linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.intermediate_size = config.intermediate_size

    def linears(self) -> tuple[LinearLayer, ...]:
        """In the order in which a token passes them."""
        return self.qkv_proj, self.o_proj, self.gate_up_proj, self.down_proj

    def checkpoint_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names within the layer, and their places."""
        q_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden_size = self.input_norm.weight.shape[0]
        yield "input_layernorm.weight", self.input_norm.weight
        yield "post_attention_layernorm.weight", self.post_attention_norm.weight
        for fused, sizes in (
            (self.qkv_proj, {"self_attn.q_proj": q_size, "self_attn.k_proj": kv_size, "self_attn.v_proj": kv_size}),
            (self.o_proj, {"self_attn.o_proj": hidden_size}),
            (self.gate_up_proj, dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), self.intermediate_size)),
            (self.down_proj, {"mlp.down_proj": hidden_size}),
        ):
            assert isinstance(fused, Linear), "weights are loaded before layers are converted"
            start = 0
            for name, size in sizes.items():
                yield f"{name}.weight", fused.weight[start : start + size]
                if fused.bias is not None:
                    yield f"{name}.bias", fused.bias[start : start + size]
                start += size

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attention: AttentionBackend) -> None:
        """Add the layer's two contributions to [T, hidden], in place."""
        qkv = self.qkv_proj(self.input_norm(hidden)).view(len(hidden), -1, self.head_dim)  # [T, H + 2 KV, D]
        rotate_(qkv[:, : self.num_heads + self.num_kv_heads], cos, sin)
        attended = attention.forward(self.number, qkv[:, : self.num_heads], qkv[:, self.num_heads :])
        hidden.add_(self.o_proj(attended))
        hidden.add_(self.down_proj(silu_and_mul(self.gate_up_proj(self.post_attention_norm(hidden)))))
