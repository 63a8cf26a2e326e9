"""Sampling: token for token beside the reference, in distribution beside engine/sampler.py, and what must be exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learnsgl.engine.sampler import SamplingBatch, sample
from learnsgl.kernels.sampling import SamplingTensors, sample_tokens
from learnsgl.kernels.sampling_reference import kept_tokens, philox, probabilities, sample_tokens_reference
from tests.kernels.cases import DTYPES, generator


def params(num_rows: int, device: torch.device | str = "cpu", **given: float | list[float]) -> SamplingTensors:
    """Parameters of rows: those given, for all rows or one by one, and what keeps every token."""
    values = {"temperature": 1.0, "top_k": 1 << 20, "top_p": 1.0, "min_p": 0.0, "seeds": 0, "positions": 0} | given
    dtypes = {"top_k": torch.int32, "seeds": torch.int64, "positions": torch.int64}
    return SamplingTensors(
        **{
            name: torch.tensor(
                value if isinstance(value, list) else [value] * num_rows, dtype=dtypes.get(name, torch.float32)
            ).to(device)
            for name, value in values.items()
        }
    )


def on_host(given: SamplingTensors) -> SamplingTensors:
    return SamplingTensors(**{name: getattr(given, name).cpu() for name in SamplingTensors.__slots__})


MIXED = {
    "temperature": [0.0, 1.0, 0.7, 1.5, 1.0, 0.3, 1.0, 1.0, 2.0, 1.0, 1e-30, 100.0],
    "top_k": [5, 99999, 3, 50, 99999, 1, 99999, 10, 40, 99999, 7, 99999],
    "top_p": [0.5, 1.0, 1.0, 0.8, 0.3, 0.9, 1e-9, 0.95, 1.0, 1.0, 0.9, 0.9],
    "min_p": [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.05, 0.2, 1.0, 0.0, 0.001],
    "seeds": [-1, 2**62, 3, 4, 5, 6, 7, 8, 9, 10, 11, 2**33],
    "positions": [1, 2, 3, 4, 5, 6, 7, 8, 100_000, 10, 11, 12],
}


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [*((333, dtype) for dtype in DTYPES), (1, torch.float16), (9000, torch.bfloat16)]
)
def test_every_kind_of_row_beside_the_reference(vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
    # rounded to steps of a quarter, so that many logits are equal
    logits = (12 * torch.randn(12, vocab_size, generator=generator(vocab_size))).round().div(4).to(dtype)
    logits[3, 1::2] = -torch.inf
    given = params(12, device, **MIXED)
    tokens, failed = sample_tokens(logits.to(device), given)
    assert tokens.tolist() == sample_tokens_reference(logits, on_host(given)).tolist()
    assert not failed.any()


def test_without_the_search(device: torch.device) -> None:
    logits = torch.randn(4, 600, generator=generator(1))
    given = params(4, device, temperature=[0.0, 1.0, 0.5, 3.0], seeds=[1, 2, 3, 4])
    tokens, _ = sample_tokens(logits.to(device), given, any_filtered=False)
    assert tokens.tolist() == sample_tokens_reference(logits, on_host(given)).tolist()
    assert torch.equal(tokens, sample_tokens(logits.to(device), given)[0])


def test_greedy_takes_the_first_of_the_best(device: torch.device) -> None:
    logits = torch.zeros(3, 9000)
    logits[0, [5, 4097, 8999]] = 1.0
    logits[1, [8191, 1025]] = 1.0
    tokens, _ = sample_tokens(logits.to(device), params(3, device, temperature=[0.0, 1.0, 0.0], top_k=[1 << 20, 1, 1]))
    assert tokens.tolist() == [5, 1025, 0]


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-38}])
def test_filters_that_leave_one_token_are_greedy(filters: dict[str, float], device: torch.device) -> None:
    logits = torch.randn(5, 700, generator=generator(2)).to(device)
    tokens, _ = sample_tokens(logits, params(5, device, seeds=[1, 2, 3, 4, 5], **filters))
    assert tokens.tolist() == logits.argmax(dim=-1).tolist()


def test_a_row_does_not_depend_on_its_neighbours(device: torch.device) -> None:
    logits = torch.randn(12, 500, generator=generator(3)).to(device)
    given = params(12, device, **MIXED)
    together, _ = sample_tokens(logits, given)
    order = torch.arange(11, -1, -1, device=device)
    turned = SamplingTensors(**{name: getattr(given, name)[order] for name in SamplingTensors.__slots__})
    assert torch.equal(sample_tokens(logits[order], turned)[0], together[order])
    alone = SamplingTensors(**{name: getattr(given, name)[4:5] for name in SamplingTensors.__slots__})
    assert sample_tokens(logits[4:5], alone)[0].item() == together[4]


def test_broken_rows_are_told(device: torch.device) -> None:
    logits = torch.zeros(5, 600)
    logits[1] = -torch.inf
    logits[2, 77] = torch.nan
    logits[3, 500] = torch.inf
    logits[4, :599] = -torch.inf
    for given in (params(5, device), params(5, device, temperature=0.0), params(5, device, top_k=3, top_p=0.9)):
        tokens, failed = sample_tokens(logits.to(device), given)
        assert failed.tolist() == [False, True, True, True, False]
        assert tokens[4] == 599


def test_no_rows(device: torch.device) -> None:
    tokens, failed = sample_tokens(torch.zeros(0, 10, device=device), params(0, device))
    assert len(tokens) == len(failed) == 0


def test_logits_of_another_dtype_are_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"torch\.float64; allowed are torch\.float32"):
        sample_tokens(torch.zeros(1, 10, dtype=torch.float64, device=device), params(1, device))


# ---------------------------------------------------------------- in distribution


def chi_square(tokens: torch.Tensor, expected: torch.Tensor) -> float:
    """How far counts are from what is expected, in standard deviations of the statistic; rare tokens are pooled."""
    counts = torch.bincount(tokens.cpu(), minlength=len(expected)).double()
    expected = expected * len(tokens)
    rare = expected < 5
    observed = torch.cat((counts[~rare], counts[rare].sum().view(1)))
    wanted = torch.cat((expected[~rare], expected[rare].sum().view(1)))
    kept = wanted > 0
    assert counts[expected == 0].sum() == 0, "a token was drawn that isn't left"
    freedom = int(kept.sum()) - 1
    statistic = float(((observed - wanted)[kept] ** 2 / wanted[kept]).sum())
    return (statistic - freedom) / max(1.0, 2 * freedom) ** 0.5


FILTERS = [
    {}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.1},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
]  # fmt: skip


@pytest.mark.parametrize("filters", FILTERS)
def test_the_noise_gives_the_right_distribution(filters: dict[str, float]) -> None:
    """20,000 draws of the reference, of one seed at successive positions and of successive seeds at one position."""
    num_draws, vocab_size = 20_000, 24
    logits = 2 * torch.randn(1, vocab_size, generator=generator(7)).expand(num_draws, -1)
    counting = list(range(num_draws))
    for varied in ("positions", "seeds"):
        given = params(num_draws, **{**filters, varied: counting})
        expected = probabilities(logits[:1], params(1, **filters))[0]
        assert abs(chi_square(sample_tokens_reference(logits, given), expected)) < 4


def test_the_kernel_gives_the_right_distribution(device: torch.device) -> None:
    """That filtered rows do follows from the test above, and from being equal to the reference token for token."""
    num_draws = 100
    logits = torch.randn(1, 8, generator=generator(8)).expand(num_draws, -1)
    given = params(num_draws, device, seeds=list(range(num_draws)))
    tokens, _ = sample_tokens(logits.to(device), given, any_filtered=False)
    assert abs(chi_square(tokens, probabilities(logits[:1], params(1))[0])) < 4


@pytest.mark.parametrize("filters", FILTERS)
def test_the_engine_s_sampler_has_the_same_distribution(filters: dict[str, float]) -> None:
    """Random numbers at equal distances give each token as often as it is likely, to within one of them."""
    num_draws, vocab_size = 2000, 24
    logits = 2 * torch.randn(1, vocab_size, generator=generator(9)).expand(num_draws, -1)
    batch = SamplingBatch(
        temperature=np.full(num_draws, filters.get("temperature", 1.0), dtype=np.float32),
        top_k=np.full(num_draws, int(filters.get("top_k", vocab_size)), dtype=np.int64),
        top_p=np.full(num_draws, filters.get("top_p", 1.0), dtype=np.float32),
        min_p=np.full(num_draws, filters.get("min_p", 0.0), dtype=np.float32),
        greedy=np.zeros(num_draws, dtype=np.bool_),
        uniforms=(np.arange(num_draws) + 0.5) / num_draws,
    )
    shares = torch.bincount(sample(logits, batch), minlength=vocab_size).double() / num_draws
    expected = probabilities(logits[:1], params(1, **filters))[0]
    torch.testing.assert_close(shares, expected, rtol=0.0, atol=1.01 / num_draws)
    assert not shares[~kept_tokens(logits[:1], params(1, **filters))[0]].any()


def test_philox_is_philox() -> None:
    """The known answers of the authors' library, Random123, for philox4x32-10."""
    words = [np.array([word], dtype=np.uint64) for word in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    key = [np.array([word], dtype=np.uint64) for word in (0xA4093822, 0x299F31D0)]
    found = philox((words[0], words[1], words[2], words[3]), key[0], key[1])
    assert [int(word[0]) for word in found] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
