"""The seam between a layer and the operators that it is computed with: plain torch, or the fused kernels of a GPU.

`loading.py` chooses once; `decoder.py` and `decoder_layer.py` call the chosen `Ops`. The seam has exactly what
is worth fusing: a norm with the sum before it, rotation with the store of keys and values, the gated activation, and
for a few tokens the matrix products with what stands around them.
"""

from __future__ import annotations

from typing import Protocol

import torch

from learnsgl.attention.backend import AttentionBackend
from learnsgl.models.layers import LinearLayer, RMSNorm, silu_and_mul
from learnsgl.models.rope import Rotation, rotate_

QKNorms = tuple[RMSNorm, RMSNorm]
"""The norms on query and on key heads."""


class Ops(Protocol):
    """What a layer is computed with. T tokens, H query heads, KV key heads, D features of a head.

    A sum that is still to be made, x [T, hidden], is handed on until a norm makes it; `None` where there is none.
    """

    def project(
        self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm, linear: LinearLayer
    ) -> torch.Tensor:
        """Add x to the residual [T, hidden] in place, normalise the sum, and apply the layer.

        Returns:
            [T, out_features].
        """
        ...

    def project_gated(
        self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm, linear: LinearLayer
    ) -> torch.Tensor:
        """The same, with SwiGLU's activation of [T, 2 * I], gate then up.

        Returns:
            [T, I].
        """
        ...

    def add_projection(self, x: torch.Tensor, residual: torch.Tensor, linear: LinearLayer) -> torch.Tensor | None:
        """Apply the layer to x [T, in_features], and add the result to the residual, or leave that to the next norm.

        Returns:
            What is still to be added, if it was left.
        """
        ...

    def add_and_norm(self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """Add x [T, hidden] to the residual [T, hidden] in place, if there is an x, and normalise the sum.

        Returns:
            [T, hidden].
        """
        ...

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
        """Normalise query and key heads where there are norms, rotate them, keep keys and values, and attend.

        Args:
            layer: number of the layer, from 0.
            qkv: [T, H + 2 KV, D]; may be changed.
            rotation: the angles of the step's tokens.
            attention: has planned the step.
            num_heads: H.
            norms: of query heads and of key heads.

        Returns:
            [T, H * D].
        """
        ...


class TorchOps:
    """Plain torch, on any device (`Ops`)."""

    def project(
        self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm, linear: LinearLayer
    ) -> torch.Tensor:
        """See `Ops.project`."""
        return linear(self.add_and_norm(x, residual, norm))

    def project_gated(
        self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm, linear: LinearLayer
    ) -> torch.Tensor:
        """See `Ops.project_gated`."""
        return silu_and_mul(linear(self.add_and_norm(x, residual, norm)))

    def add_projection(self, x: torch.Tensor, residual: torch.Tensor, linear: LinearLayer) -> torch.Tensor | None:
        """See `Ops.add_projection`; the sum is left, since the next norm's operator makes it."""
        return linear(x)

    def add_and_norm(self, x: torch.Tensor | None, residual: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """See `Ops.add_and_norm`."""
        if x is not None:
            residual.add_(x)
        return norm(residual)

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
        num_kv_heads = (qkv.shape[1] - num_heads) // 2
        query, key_value = qkv[:, :num_heads], qkv[:, num_heads:]
        if norms is not None:
            query.copy_(norms[0](query))
            key = key_value[:, :num_kv_heads]
            key.copy_(norms[1](key))
        rotate_(qkv[:, : num_heads + num_kv_heads], *rotation.looked_up)
        return attention.forward(layer, query, key_value)
