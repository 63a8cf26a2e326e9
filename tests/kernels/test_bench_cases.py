"""The cases of `learnsgl bench kernels` at small sizes: all ways of a case give the same."""

from __future__ import annotations

import pytest
import torch

from learnsgl.bench.kernels_cases import make_cases
from learnsgl.bench.kernels_data import Case, Shape, Sizes
from learnsgl.bench.kernels_products import product_cases
from tests.kernels.cases import assert_close

SMALL = Sizes(num_tokens=(3,), decodes=((1, 40), (3, 9)), prefills=((2, 5, 0), (1, 3, 6)), num_sampled=(2,))
SHAPE = Shape("small", 32, 24, 4, 2, 16, 100, has_qk_norm=True)


@pytest.mark.parametrize("page_size", [1, 4])
def test_all_ways_give_the_same(page_size: int, device: torch.device) -> None:
    kernels = []
    for case in make_cases(SHAPE, SMALL, page_size, torch.float32, device):
        kernels.append(case.kernel)
        results = {name: compute().clone() for name, compute in case.ways.items()}
        first = results.pop("learnsgl")
        check(case, first, results)
    assert list(dict.fromkeys(kernels)) == [
        "rms-norm", "silu-mul", "rotary-store", "decode-attention", "prefill-attention", "sampling",
    ]  # fmt: skip


def test_products_of_a_few_tokens_give_the_same_in_one_launch_and_apart(device: torch.device) -> None:
    sizes = []
    for case in product_cases(SHAPE, 3, torch.bfloat16, device):
        sizes.append(case.size)
        results = {name: compute().clone() for name, compute in case.ways.items()}
        check(case, results.pop("learnsgl"), results)
    assert sizes == ["3 tokens, norm, qkv", "3 tokens, o, sum", "3 tokens, norm, gate, up, silu", "3 tokens, down, sum"]


def check(case: Case, first: torch.Tensor, others: dict[str, torch.Tensor]) -> None:
    assert case.num_bytes > 0
    for other in others.values():
        assert other.shape == first.shape, f"{case.kernel}, {case.size}"
        if case.kernel == "rotary-store":
            # the queries were rotated in place by the first way; keys and values are as they were
            assert_close(first[1], other[1])
            assert_close(first[0], other[0])
        elif case.kernel == "sampling":
            assert not case.has_one_answer or torch.equal(first, other)
        else:
            assert_close(first, other)
