"""The operators of a layer as fused Triton kernels: what a model runs on a GPU.

`loading.py` gives a model these where its device is a GPU that Triton compiles for; `kernels/` has the kernels.
"""

from __future__ import annotations

import torch

from learnsgl.attention.backend import AttentionBackend
from learnsgl.attention.flashinfer_backend import FlashInferAttention
from learnsgl.attention.triton_backend import TritonAttention
from learnsgl.kernels.rms_norm import qk_norm_, rms_norm
from learnsgl.kernels.rotary_store import QKNorm
from learnsgl.kernels.silu_mul import silu_and_mul
from learnsgl.models.layers import RMSNorm
from learnsgl.models.ops import QKNorms
from learnsgl.models.rope import Rotation, rotate_


class TritonOps:
    """One launch for each of the three (`Ops`); two more around the torch backend of attention."""

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

    def silu_and_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `Ops.silu_and_mul`."""
        return silu_and_mul(gate_up)
