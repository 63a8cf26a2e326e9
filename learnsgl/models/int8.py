"""Linear layers whose weights are 8-bit integers, for the CPU: `--quantization int8`.

`Int8Quantizer` turns each float32 layer of a loaded model into an `Int8Linear`. Reading weights from memory is what a
decode step on a CPU waits for, so a quarter of the bytes is most of the gain; the product itself runs in integers.
"""

from __future__ import annotations

import torch

from learnsgl.errors import StartupError
from learnsgl.models.layers import Linear, LinearLayer
from learnsgl.models.packed import LEAST_ROWS, pad_rows

INT8_LEVELS = 127
"""Weights go from -127 to 127 ..."""

INT8_LEVELS_WITHOUT_VNNI = 64
"""... or only so far on processors whose 8-bit products are added up in pairs of 16 bits: 2 * 255 * 64 still fits."""

_DIGIT_ZERO = 128
"""The unsigned byte that stands for the digit 0."""

_BASE = 256

_ZERO = _DIGIT_ZERO * (_BASE + 1)
"""The unsigned 16-bit number that stands for the activation 0: both its bytes are `_DIGIT_ZERO`."""

ACTIVATION_LEVELS = 65535 - _ZERO
"""A row's largest activation becomes plus or minus this, 32639."""

_HALF_ABOVE_ZERO = torch.tensor(_ZERO + 0.5)


class Int8Linear:
    """y = x W^T + b, with W rounded to 8 bits, one scale a row of W.

    Rounding x to 8 bits too would cost more accuracy than rounding W: a few of its features are far larger than the
    rest. So each row of x is rounded to 16 bits, with a scale of its own, and written as two digits of 8 bits; the
    two are two rows of one 8-bit product. For the few tokens of a decode step that costs next to nothing, because
    both digits use the same weights while they are there. All sums are exact integers (in_features may be up to
    132,000), so a row's result doesn't depend on its neighbours at all.

    Source: a scale a row and a scale an output feature is "vector-wise quantization" of LLM.int8() (Dettmers et al.,
    2022, section 2.1); digits in place of its outliers in float are ours.
    """

    __slots__ = ("_bias", "_packed", "_scales", "_zeros", "nbytes")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, levels: int = INT8_LEVELS) -> None:
        """Quantise.

        Args:
            weight: float32 [out_features, in_features], on the CPU; it isn't kept.
            bias: float32 [out_features], or `None`.
            levels: largest integer that a weight becomes.
        """
        largest = weight.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny)
        integers = (weight * (levels / largest).unsqueeze(1)).round_().to(torch.int8)
        self._packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(integers, None)  # in the library's own layout
        self._scales = largest / (levels * ACTIVATION_LEVELS)
        self._zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        self._bias = bias
        self.nbytes = integers.nbytes + self._scales.nbytes + self._zeros.nbytes + (0 if bias is None else bias.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: float32 [T, in_features] to [T, out_features]."""
        digits, largest = to_digits(pad_rows(x, LEAST_ROWS // 2))  # each row is two of the product
        # The library knows one scale for all activations, so it is told 1 and the rows' own follow.
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            digits, 1.0, _DIGIT_ZERO, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        low, high = product.chunk(2)
        y: torch.Tensor = low.add_(high, alpha=_BASE).mul_(largest)[: x.shape[0]]
        return y if self._bias is None else y.add_(self._bias)


def to_digits(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to 16 bits, and write it as two digits of 8 bits.

    Args:
        x: float32 [T, K].

    Returns:
        uint8 [2 * T, K], the low digits of all rows and then the high ones, where 128 stands for 0; and the largest
        activation of each row, float32 [T, 1]: x is nearly ((high - 128) * 256 + (low - 128)) / 32639 * largest.
    """
    num_rows, num_features = x.shape
    largest = x.abs().amax(1, True)
    # In a row of zeros this divides 0 by 0. Whatever digits come of it, they count for nothing: times 0.
    numbers = torch.addcdiv(_HALF_ABOVE_ZERO, x, largest, value=ACTIVATION_LEVELS)
    both = numbers.to(torch.uint16).view(torch.uint8)  # cut off, so rounded thanks to the half; the low byte is first
    digits = both.as_strided((2, num_rows, num_features), (1, 2 * num_features, 2))
    return digits.reshape(2 * num_rows, num_features), largest


class Int8Quantizer:
    """Turns layers into `Int8Linear`s, on a machine where that has been found to work.

    Attributes:
        levels: largest integer that a weight becomes on this processor.
    """

    def __init__(self) -> None:
        """Try the operators.

        Raises:
            StartupError: this PyTorch lacks them, or they give wrong results on this processor.
        """
        try:
            exact = [levels for levels in (INT8_LEVELS, INT8_LEVELS_WITHOUT_VNNI) if is_exact(levels)]
        except (AttributeError, RuntimeError) as error:
            raise StartupError(
                f"--quantization int8 needs the 8-bit products of oneDNN, and PyTorch {torch.__version__} on this "
                f"machine hasn't got them ({str(error).splitlines()[0]}); leave --quantization out"
            ) from error
        if not exact:
            raise StartupError(
                "--quantization int8 can't be used: PyTorch's 8-bit products give wrong results on this processor; "
                "leave --quantization out"
            )
        self.levels = exact[0]

    def __call__(self, linear: LinearLayer) -> Int8Linear:
        """The same layer in 8 bits."""
        assert isinstance(linear, Linear), "a layer is quantised once"
        return Int8Linear(linear.weight, linear.bias, levels=self.levels)


def is_exact(levels: int) -> bool:
    """Whether products of the largest integers come out right.

    Processors without VNNI instructions add two products of 8 bits up in 16 bits, which are too few for these.
    """
    weight = torch.full((32, 64), float(levels))
    weight[1::2] *= -1
    x = torch.full((4, 64), 1.0)
    x[1::2] *= -1
    expected = x.double() @ weight.T.double()
    got = Int8Linear(weight, None, levels=levels)(x).double()
    return bool(((got - expected).abs() <= 1e-6 * expected.abs()).all())
