"""The building blocks that the architectures share: linear layers, the norm, and the gated activation.

They are plain objects that hold tensors rather than `torch.nn.Module`s: nothing here is trained or hooked, and on a
small model the machinery of a module costs as much as the operator inside it.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

SKINNY_TOKENS = 4
"""Up to so many tokens a float32 product on the CPU is limited by how fast its weights are read from memory."""

TALL_ROWS = 8192
"""From so many output features on (the vocabulary), `W @ x.T` is faster on the CPU than `x @ W.T`."""


class LinearLayer(Protocol):
    """y = x W^T + b, however the weights are kept."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: [T, in_features] to [T, out_features], which may be a transposed view."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that its weights take."""
        ...


class Linear:
    """y = x W^T + b, in the dtype of its weights (`LinearLayer`).

    Attributes:
        weight: [out_features, in_features].
        bias: [out_features], or `None`.
    """

    __slots__ = ("_cpu_float32", "_pieces", "bias", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self._cpu_float32 = weight.device.type == "cpu" and weight.dtype == torch.float32
        self._pieces: torch.Tensor | None = None
        # without MKL, the pieces of a batched product would run one after the other
        if self._cpu_float32 and torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
            self._pieces = weight.view(num_pieces(weight.shape[0], torch.get_num_threads()), -1, weight.shape[1])

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
        """Apply the layer: [T, in_features] to [T, out_features].

        The result may be a transposed view. On a CPU three forms of the same product are used, because PyTorch's
        libraries choose badly for few tokens: a matrix times one vector runs on a single thread, and a batched
        product over as many slices of the weights as there are threads doesn't.
        """
        num_tokens = x.shape[0]
        if num_tokens <= SKINNY_TOKENS and self._pieces is not None:
            # [pieces, out / pieces, in] @ [pieces, in, T] -> [pieces, out / pieces, T] -> [T, out]
            product = torch.bmm(self._pieces, x.T.expand(self._pieces.shape[0], -1, -1))
            y = product.view(self.weight.shape[0], num_tokens).T
        elif self._cpu_float32 and self.weight.shape[0] >= TALL_ROWS:
            y = (self.weight @ x.T).T
        else:
            return F.linear(x, self.weight, self.bias)
        return y if self.bias is None else y.add_(self.bias)


def num_pieces(out_features: int, num_threads: int) -> int:
    """In how many equal pieces to cut a weight, so that as many threads finish at nearly the same time."""
    divisors = [n for n in range(1, min(out_features, 8 * num_threads) + 1) if out_features % n == 0]

    def rounds(n: int) -> float:
        """How long the busiest thread works, where 1 / num_threads is ideal."""
        return -(-n // num_threads) / n

    return min(divisors, key=lambda n: (rounds(n), n))


class RMSNorm:
    """x / rms(x) * weight.

    Source: Root Mean Square Layer Normalization (Zhang and Sennrich, 2019), equation 4.
    """

    __slots__ = ("eps", "weight")

    def __init__(self, size: int, eps: float, *, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(size, dtype=dtype, device=device)
        self.eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension; the shape stays."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's activation: [T, 2 * I], gate then up, to [T, I].

    Source: GLU Variants Improve Transformer (Shazeer, 2020), section 2.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
