"""The operators of a layer as fused Triton kernels: what a model runs on a GPU.

`loading.py` gives a model these where its device is a GPU that Triton compiles for; `kernels/` has the kernels.
"""

from __future__ import annotations

import torch

from learnsgl.attention.backend import AttentionBackend
from learnsgl.attention.flashinfer_backend import FlashInferAttention
from learnsgl.attention.triton_backend import TritonAttention
from learnsgl.kernels.configs import read_traits
from learnsgl.kernels.few_tokens import Around, few_tokens_product, fits
from learnsgl.kernels.rms_norm import qk_norm_, rms_norm
from learnsgl.kernels.rotary_store import QKNorm
from learnsgl.kernels.silu_mul import silu_and_mul
from learnsgl.models.layers import Linear, LinearLayer, RMSNorm
from learnsgl.models.ops import QKNorms
from learnsgl.models.rope import Rotation, rotate_


class TritonOps:
    """Norm with sum, rotation with store, activation: a launch each (`Ops`). Attention of torch needs two more.

    For a few tokens of a small bfloat16 model norm, activation and sum are in the launches of the products.
    """

    def __init__(self, device: torch.device) -> None:
        self._num_sms = read_traits(device).num_sms

    def project(
        self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm, linear: LinearLayer
    ) -> torch.Tensor:
        """See `Ops.project`."""
        if x is None and isinstance(linear, Linear) and fits(len(residual), linear.weight):
            return self._product(residual, linear, Around(norm.weight, norm.eps))
        return linear(self.add_and_norm(x, residual, norm))

    def project_gated(
        self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm, linear: LinearLayer
    ) -> torch.Tensor:
        """See `Ops.project_gated`."""
        if x is None and isinstance(linear, Linear) and fits(len(residual), linear.weight):
            return self._product(residual, linear, Around(norm.weight, norm.eps, is_gated=True))
        return silu_and_mul(linear(self.add_and_norm(x, residual, norm)))

    def add_projection(self, x: torch.Tensor, residual: torch.Tensor, linear: LinearLayer) -> torch.Tensor | None:
        """See `Ops.add_projection`."""
        if isinstance(linear, Linear) and fits(len(x), linear.weight):
            self._product(x, linear, Around(is_added=True), out=residual)
            return None
        return linear(x)

    def _product(
        self, x: torch.Tensor, linear: Linear, around: Around, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        return few_tokens_product(x, linear.weight, linear.bias, around, num_sms=self._num_sms, out=out)

    def add_and_norm(self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """See `Ops.add_and_norm`."""
        if x is None:
            return rms_norm(residual, norm.weight, norm.eps)
        return rms_norm(x, norm.weight, norm.eps, residual=residual)

    def attend(
        self,
        layer: int,
        qkv: torch.Tensor,
        rotation: Rotation,
        attention: AttentionBackend,
        *,
        num_heads: int,
        norms: QKNorms | None,
    ) -> torch.Tensor:
        """See `Ops.attend`."""
        if isinstance(attention, (TritonAttention, FlashInferAttention)):
            fused = None if norms is None else QKNorm(norms[0].weight, norms[1].weight, norms[0].eps)
            return attention.rotate_and_attend(layer, qkv, rotation.cos_table, rotation.sin_table, norm=fused)
        num_kv_heads = (qkv.shape[1] - num_heads) // 2
        if norms is not None:
            qk_norm_(
                qkv, norms[0].weight, norms[1].weight, norms[0].eps, num_heads=num_heads, num_kv_heads=num_kv_heads
            )
        rotate_(qkv[:, : num_heads + num_kv_heads], *rotation.looked_up)
        return attention.forward(layer, qkv[:, :num_heads], qkv[:, num_heads:])
