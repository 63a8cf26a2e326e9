"""One layer of a decoder: attention, then the gated MLP, each behind a norm and added to what came in.

`decoder.py` stacks them. Query, key and value are one fused matrix, gate and up another, so that a layer is four
products. In what the architectures differ is `OptionalParts`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from learnsgl.attention.backend import AttentionBackend
from learnsgl.models.config import ModelConfig
from learnsgl.models.layers import Linear, LinearLayer, RMSNorm
from learnsgl.models.ops import Ops
from learnsgl.models.rope import Rotation


@dataclass(frozen=True)
class OptionalParts:
    """What a layer may have or lack.

    Attributes:
        qkv_bias: the query, key and value projections have biases.
        o_bias: the output projection of attention has one.
        mlp_bias: the three projections of the MLP have one.
        qk_norm: each query and key head is normalised before it is rotated, all query heads with one weight and all
            key heads with another.
    """

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


class DecoderLayer:
    """A layer's weights, and what it adds to the hidden states.

    Source: the order of parts is that of Llama 2 (Touvron et al., 2023), section 2.2; grouped-query attention from
    Ainslie et al., 2023; norms on query and key from Scaling Vision Transformers to 22 Billion Parameters (Dehghani
    et al., 2023), section 2.
    """

    def __init__(
        self, config: ModelConfig, parts: OptionalParts, number: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate the weights, uninitialised; `number` counts layers from 0."""

        def linear(out_features: int, in_features: int, bias: bool) -> LinearLayer:
            return Linear.empty(out_features, in_features, bias=bias, dtype=dtype, device=device)

        def norm(size: int) -> RMSNorm:
            return RMSNorm(size, config.rms_norm_eps, dtype=dtype, device=device)

        self.number = number
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        num_qkv_heads = config.num_heads + 2 * config.num_kv_heads
        self.input_norm = norm(config.hidden_size)
        self.qkv_proj = linear(num_qkv_heads * config.head_dim, config.hidden_size, parts.qkv_bias)
        self.qk_norms = (norm(config.head_dim), norm(config.head_dim)) if parts.qk_norm else None
        self.o_proj = linear(config.hidden_size, config.num_heads * config.head_dim, parts.o_bias)
        self.post_attention_norm = norm(config.hidden_size)
        self.gate_up_proj = linear(2 * config.intermediate_size, config.hidden_size, parts.mlp_bias)
        self.down_proj = linear(config.hidden_size, config.intermediate_size, parts.mlp_bias)
        self.intermediate_size = config.intermediate_size

    def linears(self) -> tuple[LinearLayer, ...]:
        """In the order in which a token passes them."""
        return self.qkv_proj, self.o_proj, self.gate_up_proj, self.down_proj

    def norms(self) -> tuple[RMSNorm, ...]:
        """Likewise."""
        return self.input_norm, *(self.qk_norms or ()), self.post_attention_norm

    def convert_linears(self, convert: Callable[[LinearLayer], LinearLayer]) -> None:
        """Put another form in the place of each linear layer."""
        self.qkv_proj, self.o_proj = convert(self.qkv_proj), convert(self.o_proj)
        self.gate_up_proj, self.down_proj = convert(self.gate_up_proj), convert(self.down_proj)

    def checkpoint_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names within the layer, and their places."""
        q_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden_size = self.input_norm.weight.shape[0]
        yield "input_layernorm.weight", self.input_norm.weight
        yield "post_attention_layernorm.weight", self.post_attention_norm.weight
        if self.qk_norms is not None:
            yield "self_attn.q_norm.weight", self.qk_norms[0].weight
            yield "self_attn.k_norm.weight", self.qk_norms[1].weight
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

    def forward(
        self, x: torch.Tensor | None, hidden: torch.Tensor, rotation: Rotation, attention: AttentionBackend, ops: Ops
    ) -> torch.Tensor | None:
        """Run the layer, except perhaps for its last sum, which may come with the norm that follows it.

        Args:
            x: [T, hidden]; what the layer before has yet to add, if anything.
            hidden: [T, hidden]; x and what attention contributes are added in place.
            rotation: the angles of the step's tokens.
            attention: has planned the step.
            ops: what the layer is computed with.

        Returns:
            What the MLP contributes, [T, hidden], if it is still to be added to `hidden`.
        """
        qkv = ops.project(x, hidden, self.input_norm, self.qkv_proj)
        qkv = qkv.view(len(hidden), -1, self.head_dim)  # [T, H + 2 KV, D]
        attended = ops.attend(
            self.number, qkv, rotation, attention, num_heads=self.num_heads, norms=self.qk_norms
        )  # fmt: skip
        x = ops.add_projection(attended, hidden, self.o_proj)
        activated = ops.project_gated(x, hidden, self.post_attention_norm, self.gate_up_proj)
        return ops.add_projection(activated, hidden, self.down_proj)
