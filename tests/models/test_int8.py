"""8-bit linear layers: how exact they are, that rows are independent, and processors and builds that can't do it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from learnsgl.errors import StartupError
from learnsgl.models import int8
from learnsgl.models.int8 import ACTIVATION_LEVELS, Int8Linear, Int8Quantizer, to_digits
from learnsgl.models.layers import Linear


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(weight: torch.Tensor, levels: int) -> torch.Tensor:
    """What the weights are after rounding, in float64."""
    scales = weight.double().abs().amax(dim=1, keepdim=True) / levels
    return (weight / scales).round() * scales


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 40])
@pytest.mark.parametrize("bias", [None, random(50, seed=1)])
def test_it_is_the_product_with_rounded_weights(num_tokens: int, bias: torch.Tensor | None) -> None:
    levels = Int8Quantizer().levels
    weight, x = random(50, 70), random(num_tokens, 70, seed=2)
    x[:, 5] *= 300.0  # one feature far larger than the rest, as language models have them
    layer = Int8Linear(weight, bias, levels=levels)
    expected = x.double() @ rounded(weight, levels).T + (0 if bias is None else bias.double())
    largest = x.abs().amax(dim=1, keepdim=True) if num_tokens else 1.0
    error = (layer(x).double() - expected).abs() / largest
    assert layer(x).shape == (num_tokens, 50)
    # each of 70 products is wrong by at most half a step of the largest activation's 32639
    assert bool((error <= 0.5 / ACTIVATION_LEVELS * weight.abs().sum(dim=1) + 1e-6).all())
    assert layer.nbytes == 50 * 70 + 50 * 4 + 50 * 8 + (0 if bias is None else 50 * 4)


def test_weights_are_off_by_half_a_step_at_most() -> None:
    levels = Int8Quantizer().levels
    weight = random(9, 33)
    weight[4] = 0.0
    identity = Int8Linear(weight, None, levels=levels)(torch.eye(33)).T
    assert bool(((identity - weight).abs() <= 0.501 / levels * weight.abs().amax(dim=1, keepdim=True)).all())


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    layer = Int8Linear(random(64, 48), random(64), levels=Int8Quantizer().levels)
    x = random(37, 48) * torch.logspace(-6, 6, 37).unsqueeze(1)
    together = layer(x)
    for row in range(37):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])
    assert torch.equal(layer(x.flip(0)).flip(0), together)
    assert torch.equal(layer(x[3:20]), together[3:20])


def test_digits_give_16_bits_of_each_activation() -> None:
    x = torch.tensor([[1.0, -1.0, 0.0, 0.5, 1e-9], [0.0] * 5, [-3e-12, 2e-12, 0.0, 0.0, 1e-12]])
    digits, largest = to_digits(x)
    assert (digits.dtype, digits.shape, largest.tolist()) == (torch.uint8, (6, 5), x.abs().amax(1, True).tolist())
    low, high = digits.double().view(2, 3, 5) - 128
    back = (high * 256 + low) / ACTIVATION_LEVELS * largest.double()
    assert bool(((back - x).abs() <= 0.501 / ACTIVATION_LEVELS * largest).all())
    assert bool((back[x == 0] == 0).all())


def test_activations_that_are_no_numbers_stay_that() -> None:
    layer = Int8Linear(random(8, 6), None)
    x = random(3, 6)
    x[1, 2] = float("nan")
    y = layer(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_processors_without_8_bit_instructions_get_fewer_levels() -> None:
    program = (
        "from learnsgl.models.int8 import *\n"
        "torch.set_num_threads(1)\n"
        "print(is_exact(INT8_LEVELS), is_exact(INT8_LEVELS_WITHOUT_VNNI), Int8Quantizer().levels)"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    exact, exact_with_fewer, levels = done.stdout.split()
    assert exact_with_fewer == "True"
    assert (exact, levels) in (("False", "64"), ("True", "127"))  # the second on processors that aren't x86


def test_layers_keep_what_they_were() -> None:
    linear = Linear(random(20, 12), random(20, seed=3))
    layer = Int8Quantizer()(linear)
    torch.testing.assert_close(layer(random(4, 12)), linear(random(4, 12)), atol=0.1, rtol=0)


def test_a_build_without_the_operators_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoOneDNN:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"no {name}")

    monkeypatch.setattr(torch.ops, "onednn", NoOneDNN())
    with pytest.raises(StartupError, match=r"int8 needs the 8-bit products of oneDNN.*no qlinear_prepack"):
        Int8Quantizer()


def test_a_processor_that_computes_wrongly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "is_exact", lambda levels: False)
    with pytest.raises(StartupError, match="wrong results on this processor"):
        Int8Quantizer()
