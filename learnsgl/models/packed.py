"""Linear layers whose weights lie in oneDNN's own order, for the CPU: the same numbers, multiplied faster.

PyTorch's ordinary product copies the weights into such an order at every call, which for the few tokens of a decode
step takes longer than multiplying. `loading.py` asks `can_pack` and turns the layers of a loaded model over.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from learnsgl.models.layers import Linear, LinearLayer

LEAST_ROWS = 4
"""Products of fewer tokens are padded to so many rows: oneDNN's kernels for one and two rows take longer."""

_TYPICAL_ROWS = 64
"""The number of tokens that the order of the weights is chosen for; others work as well."""


class PackedLinear:
    """y = x W^T + b, in the dtype of the weights (`LinearLayer`)."""

    __slots__ = ("_bias", "_packed", "nbytes")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Put the weights in order.

        Args:
            weight: float32 or bfloat16 [out_features, in_features], on the CPU; it isn't kept.
            bias: [out_features], or `None`.
        """
        self._packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
        self._bias = bias
        self.nbytes = weight.nbytes + (0 if bias is None else bias.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: [T, in_features] to [T, out_features]."""
        padded = pad_rows(x, LEAST_ROWS)
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(padded, self._packed, self._bias, "none", [], "")
        return y[: x.shape[0]]


def pad_rows(x: torch.Tensor, least: int) -> torch.Tensor:
    """Add rows, whatever they hold, up to a number: [T, K] to [max(T, least), K]."""
    missing = least - x.shape[0]
    if missing <= 0:
        return x
    return x.expand(least, -1) if x.shape[0] == 1 else F.pad(x, (0, 0, 0, missing))


def pack(linear: LinearLayer) -> PackedLinear:
    """The same layer with its weights in oneDNN's order."""
    assert isinstance(linear, Linear), "a layer is packed once"
    return PackedLinear(linear.weight, linear.bias)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the operators, on this processor, in this dtype; seen by trying them."""
    if device.type != "cpu":
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 40, generator=generator).to(dtype)
    x = torch.randn(5, 40, generator=generator).to(dtype)
    try:
        got = PackedLinear(weight, None)(x)
    except (AttributeError, RuntimeError):  # no such operator, or none for this processor
        return False
    return torch.allclose(got, F.linear(x, weight), rtol=0.02, atol=0.02)
