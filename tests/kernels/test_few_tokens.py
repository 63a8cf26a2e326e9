"""Products of a few tokens, with norm, gate and sum, beside plain torch."""

from __future__ import annotations

import pytest
import torch

from learnsgl.kernels.few_tokens import (
    MAX_TOKENS,
    Around,
    few_tokens_bytes,
    few_tokens_product,
    few_tokens_reference,
    fits,
)
from tests.kernels.cases import assert_close, generator

BF16 = torch.bfloat16
NUM_SMS = 4


def numbers(*shape: int, seed: int, device: torch.device, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(shape, generator=generator(seed))).to(device, BF16)


@pytest.mark.parametrize(
    ("num_tokens", "num_features", "num_inputs"), [(1, 130, 64), (3, 24, 1100), (MAX_TOKENS, 7, 256), (0, 16, 16)]
)
@pytest.mark.parametrize(
    ("has_norm", "is_gated", "is_added", "has_bias"),
    [(False, False, False, False), (True, False, False, True), (True, True, False, True), (False, False, True, True)],
)
def test_it_is_the_product(
    num_tokens: int, num_features: int, num_inputs: int, has_norm: bool, is_gated: bool, is_added: bool,
    has_bias: bool, device: torch.device,
) -> None:  # fmt: skip
    num_rows = (2 if is_gated else 1) * num_features
    x = numbers(num_tokens, num_inputs + 8, seed=1, device=device, scale=3.0)[:, :num_inputs]
    weight = numbers(num_rows, num_inputs, seed=2, device=device, scale=num_inputs**-0.5)
    bias = numbers(num_rows, seed=3, device=device) if has_bias else None
    norm = numbers(num_inputs, seed=4, device=device) if has_norm else None
    around = Around(norm, 1e-5, is_gated, is_added)
    out = numbers(num_tokens, num_features, seed=5, device=device) if is_added else None
    expected = few_tokens_reference(x.clone(), weight, bias, around, None if out is None else out.clone())
    actual = few_tokens_product(x, weight, bias, around, num_sms=NUM_SMS, out=out)
    assert actual.shape == expected.shape == (num_tokens, num_features)
    assert out is None or actual is out
    # x times the norm's weight is rounded before the sum, and each result afterwards
    error = 16 * torch.finfo(BF16).eps
    torch.testing.assert_close(actual.float(), expected.float(), rtol=error, atol=error)


def test_a_token_does_not_depend_on_its_neighbours(device: torch.device) -> None:
    x, weight = numbers(5, 96, seed=6, device=device), numbers(40, 96, seed=7, device=device)
    around = Around(numbers(96, seed=8, device=device), 1e-6)
    together = few_tokens_product(x, weight, None, around, num_sms=NUM_SMS)
    for token in range(5):
        alone = few_tokens_product(x[token : token + 1], weight, None, around, num_sms=NUM_SMS)
        assert torch.equal(alone[0], together[token])


def test_zeros_stay_zeros_with_a_norm(device: torch.device) -> None:
    around = Around(numbers(64, seed=9, device=device), 1e-6)
    out = few_tokens_product(
        torch.zeros(2, 64, dtype=BF16, device=device), numbers(8, 64, seed=1, device=device), None, around, num_sms=1
    )
    assert_close(out, torch.zeros(2, 8, device=device))


def test_what_they_are_for(device: torch.device) -> None:
    assert fits(MAX_TOKENS, torch.empty(4096, 4096, dtype=BF16, device="meta"))
    assert not fits(MAX_TOKENS + 1, torch.empty(16, 16, dtype=BF16))
    assert not fits(1, torch.empty(16, 16, dtype=torch.float16))
    assert not fits(1, torch.empty(28672, 4096, dtype=BF16, device="meta"))
    with pytest.raises(ValueError, match="x has 17 tokens; these kernels take at most 16"):
        few_tokens_product(torch.zeros(17, 16, dtype=BF16), torch.zeros(16, 16, dtype=BF16), None, Around(), num_sms=1)


def test_what_they_must_move() -> None:
    plain = few_tokens_bytes(1, 1024, 2048, 2, Around())
    assert plain == (1024 * 2048 + 2048 + 1024) * 2
    assert few_tokens_bytes(1, 1024, 2048, 2, Around(is_added=True)) == plain + 2 * 1024
    gated = Around(torch.ones(2048), 1e-6, is_gated=True)
    assert few_tokens_bytes(3, 1024, 2048, 2, gated) == (2 * 1024 * 2048 + 2048 + 3 * 2048 + 3 * 1024) * 2
