"""The sampler beside a slow, plain reading of its definition, and what must not change a row's token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.core import ReqKey, SamplingParams
from learnsgl.engine.row_tables import row_seed
from learnsgl.engine.sampler import NUM_CANDIDATES, SamplingBatch, apply_masks, mix, sample, uniforms
from learnsgl.errors import EngineError
from learnsgl.scheduler.executor import Admission, Masks
from tests.engine.driver import int32

Row = tuple[float, int | None, float, float, float]  # temperature, top_k, top_p, min_p, uniform


def batch_of(rows: list[Row], vocab_size: int) -> SamplingBatch:
    return SamplingBatch(
        temperature=np.array([row[0] for row in rows], dtype=np.float32),
        top_k=np.array([vocab_size if row[1] is None else row[1] for row in rows], dtype=np.int64),
        top_p=np.array([row[2] for row in rows], dtype=np.float32),
        min_p=np.array([row[3] for row in rows], dtype=np.float32),
        greedy=np.array([row[0] == 0 for row in rows]),
        uniforms=np.array([row[4] for row in rows]),
    )


def random_logits(n: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, vocab_size, generator=torch.Generator().manual_seed(seed))


def naive_distribution(logits: torch.Tensor, row: Row) -> torch.Tensor:
    """Probabilities [V] in float64, one rule after the other, as the docstring says them."""
    temperature, top_k, top_p, min_p, _ = row
    probabilities = (logits.double() / temperature).softmax(0)
    order = sorted(range(len(logits)), key=lambda token: -float(probabilities[token]))
    order = order[: top_k or len(order)]
    mass = sum(float(probabilities[token]) for token in order)
    kept, reached = [], 0.0
    for token in order:
        if reached >= np.float32(top_p) * mass:
            break
        reached += float(probabilities[token])
        if probabilities[token] >= np.float32(min_p) * probabilities[order[0]]:
            kept.append(token)
    result = torch.zeros_like(probabilities)
    result[kept] = probabilities[kept]
    return result / result.sum()


SETTINGS: list[tuple[float, int | None, float, float]] = [
    (1.0, None, 1.0, 0.0), (0.7, 5, 1.0, 0.0), (1.3, None, 0.8, 0.0), (0.8, 20, 0.6, 0.0), (2.0, 1, 1.0, 0.0),
    (1.0, None, 1e-6, 0.0), (0.01, 3, 0.9, 0.0), (1.0, None, 1.0, 0.05), (2.0, 30, 0.9, 0.1), (1.0, None, 0.9, 1.0),
    (1.5, None, 1.0, 1.0),
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_tokens_come_as_often_as_their_probability_says(setting: tuple[float, int | None, float, float]) -> None:
    logits = random_logits(1, 50)
    num_draws = 4000
    grid = (np.arange(num_draws) + 0.5) / num_draws  # evenly spread: frequencies are then exact up to the grid
    rows = [(*setting, float(u)) for u in grid]
    tokens = sample(logits.expand(num_draws, -1), batch_of(rows, 50))
    frequencies = torch.bincount(tokens, minlength=50) / num_draws
    expected = naive_distribution(logits[0], rows[0])
    torch.testing.assert_close(frequencies.double(), expected, atol=2 / num_draws, rtol=0)


def test_large_vocabularies_use_every_token_where_the_likeliest_are_not_enough() -> None:
    vocab_size = 4 * NUM_CANDIDATES
    logits = torch.linspace(1, 0, vocab_size)[None]  # nearly flat: top-p needs more than the candidates
    for setting in (
        (1.0, None, 0.9, 0.0), (1.0, 3 * NUM_CANDIDATES, 1.0, 0.0), (1.0, NUM_CANDIDATES, 1.0, 0.0),
        (1.0, None, 0.1, 0.0), (1.0, 2 * NUM_CANDIDATES, 0.2, 0.0), (1.0, 100, 0.5, 0.0), (1.0, None, 0.9, 0.5),
        (1.0, None, 1.0, 0.5),
    ):  # fmt: skip
        rows = [(*setting, u) for u in (0.0, 0.5, 0.999999)]
        tokens = sample(logits.expand(3, -1), batch_of(rows, vocab_size))
        cdf = naive_distribution(logits[0], rows[0]).cumsum(0)
        expected = [int(torch.searchsorted(cdf, u, right=True)) for *_, u in rows]
        assert (tokens - torch.tensor(expected)).abs().max() <= 1  # one token of 4096, where rounding decides


@pytest.mark.parametrize("vocab_size", [1, 255, 256, 257, 49152])
def test_every_random_number_finds_its_token(vocab_size: int) -> None:
    logits = random_logits(1, vocab_size, seed=3)
    numbers = np.linspace(0, 1, 300, endpoint=False)
    tokens = sample(logits.expand(300, -1), batch_of([(1.0, None, 1.0, 0.0, float(u)) for u in numbers], vocab_size))
    cdf = logits[0].double().softmax(0).cumsum(0)
    below = torch.where(tokens > 0, cdf[tokens - 1], 0.0)
    assert (below <= torch.from_numpy(numbers) + 1e-6).all()
    assert (torch.from_numpy(numbers) < cdf[tokens] + 1e-6).all()


uniform_numbers = st.floats(0, 1, exclude_max=True)
rows_of_any_kind = st.tuples(
    st.sampled_from([0.0, 1e-30, 0.5, 1.0, 100.0]),
    st.one_of(st.none(), st.integers(1, 2000)),
    st.sampled_from([1.0, 0.999, 0.5, 1e-9]),
    st.sampled_from([0.0, 0.0, 0.02, 0.3, 1.0]),
    uniform_numbers,
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(rows_of_any_kind, min_size=2, max_size=7), seed=st.integers(0, 5), half=st.booleans())
def test_a_rows_token_does_not_depend_on_its_neighbours(rows: list[Row], seed: int, half: bool) -> None:
    vocab_size = 1500
    logits = random_logits(len(rows), vocab_size, seed)
    if half:
        logits = logits.bfloat16()  # many equal logits
    together = sample(logits, batch_of(rows, vocab_size)).tolist()
    alone = [int(sample(logits[i : i + 1], batch_of([row], vocab_size))) for i, row in enumerate(rows)]
    backwards = sample(logits.flip(0), batch_of(rows[::-1], vocab_size)).tolist()[::-1]
    assert together == alone == backwards


def test_tokens_of_no_probability_are_never_taken() -> None:
    logits = torch.full((3, 8), -torch.inf)
    logits[:, 3] = 1.0
    almost_one = float(np.nextafter(1.0, 0.0))
    for top_k, top_p in ((None, 1.0), (4, 1.0), (None, 0.5)):
        rows: list[Row] = [(1.0, top_k, top_p, 0.1, u) for u in (0.0, 0.5, almost_one)]
        assert sample(logits, batch_of(rows, 8)).tolist() == [3, 3, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_an_error(value: float) -> None:
    logits = torch.zeros(3, 8)
    logits[1] = value
    with pytest.raises(EngineError, match="best logit of row 1 of 3 is"):
        sample(logits, batch_of([(1.0, None, 1.0, 0.0, 0.5)] * 3, 8))


def test_random_numbers_are_uniform_and_differ_by_seed_and_position() -> None:
    seeds, positions = np.meshgrid(np.arange(100, dtype=np.uint64), np.arange(100, dtype=np.int64))
    numbers = uniforms(seeds.ravel(), positions.ravel())
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert len(np.unique(numbers)) == 10_000
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 45  # chi-squared with 19 degrees of freedom, beyond its 0.9993 quantile
    grid = numbers.reshape(100, 100)
    for one, other in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:])):  # neighbouring positions, seeds
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.04


def test_the_first_numbers_of_splitmix64() -> None:
    # its published reference stream for seed 0, which our scrambled seed 0 equals
    stream = mix(np.zeros(2, dtype=np.uint64), np.arange(2, dtype=np.uint64))
    assert [int(number) for number in stream] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def seed_of(engine_seed: int, uid: int, choice: int, seed: int | None) -> int:
    key, sampling = ReqKey(uid, choice), SamplingParams(seed=seed)
    return int(row_seed(engine_seed, Admission(key, 0, int32([1]), sampling, int32([]))))


def test_seeds_come_from_the_request_or_from_the_engine_and_its_key() -> None:
    assert seed_of(0, 1, 0, seed=7) == seed_of(99, 2, 0, seed=7)
    different: list[tuple[Any, ...]] = [
        (0, 1, 0, 7), (0, 1, 1, 7), (0, 1, 0, 8), (0, 1, 0, -7), (0, 1, 0, None), (0, 2, 0, None), (0, 1, 1, None),
        (1, 1, 0, None), (0, 1, 0, 2**63 - 1), (0, 1, 0, -(2**63)),
    ]  # fmt: skip
    assert len({seed_of(*case) for case in different}) == len(different)
    assert seed_of(3, 1, 2, None) == seed_of(3, 1, 2, None)


def test_masks_that_do_not_fit_are_errors() -> None:
    logits = torch.zeros(2, 10)
    rows = int32([4, 1])
    with pytest.raises(EngineError, match="1 masks of 2 bytes were due, and 3 bytes came"):
        apply_masks(logits, rows, Masks(int32([4]), b"\xff\xff\xff"))
    with pytest.raises(EngineError, match=r"masks came for rows \[3\]"):
        apply_masks(logits, rows, Masks(int32([3]), b"\xff\x03"))
    masked = apply_masks(logits.clone(), rows, Masks(int32([1]), b"\x01\x02"))
    assert masked[0].tolist() == [0.0] * 10
    assert masked[1].isfinite().nonzero().flatten().tolist() == [0, 9]
    assert logits.isfinite().all()
