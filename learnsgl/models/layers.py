"""The building blocks that the architectures share: linear layers, the norm, and the gated activation.

They are plain objects that hold tensors rather than `torch.nn.Module`s: nothing here is trained or hooked, and on a
small model the machinery of a module costs as much as the operator inside it.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F


class LinearLayer(Protocol):
    """y = x W^T + b, however the weights are kept."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: [T, in_features] to [T, out_features], densely in memory."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that its weights take."""
        ...


class Linear:
    """y = x W^T + b by PyTorch's ordinary product, on any device (`LinearLayer`).

    Attributes:
        weight: [out_features, in_features].
        bias: [out_features], or `None`.
    """

    __slots__ = ("bias", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    @classmethod
    def empty(
        cls, out_features: int, in_features: int, *, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> Linear:
        """A layer whose weights are still to be loaded."""
        weight = torch.empty(out_features, in_features, dtype=dtype, device=device)
        return cls(weight, torch.empty(out_features, dtype=dtype, device=device) if bias else None)

    @property
    def nbytes(self) -> int:
        """Bytes that its weights take."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: [T, in_features] to [T, out_features]."""
        return F.linear(x, self.weight, self.bias)


class RMSNorm:
    """x / rms(x) * weight.

    Source: Root Mean Square Layer Normalization (Zhang and Sennrich, 2019), equation 4.
    """

    __slots__ = ("_eps_tensor", "eps", "weight")

    def __init__(self, size: int, eps: float, *, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(size, dtype=dtype, device=device)
        self.eps = eps
        self._eps_tensor = torch.tensor(eps) if device.type == "cpu" and dtype == torch.float32 else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the rows of x; its shape, [T, size], stays."""
        if self._eps_tensor is None:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # PyTorch has one kernel for this on a GPU only; on a CPU it runs ten operators, and these are five
        norm = torch.linalg.vector_norm(x, 2, -1, True)
        inverse_rms = torch.addcmul(self._eps_tensor, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * inverse_rms).mul_(self.weight)


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's activation: [T, 2 * I], gate then up, to [T, I].

    Source: GLU Variants Improve Transformer (Shazeer, 2020), section 2.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
