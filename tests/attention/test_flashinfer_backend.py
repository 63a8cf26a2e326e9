"""The FlashInfer backend beside the torch backend, with a fake FlashInfer: mixed steps, padded steps, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.engine.graph import GraphedAttention
from learnsgl.errors import EngineError
from learnsgl.kernels.rms_norm import qk_norm_reference_
from learnsgl.kernels.rotary_store import QKNorm
from learnsgl.models.rope import rotate_
from tests.attention.conftest import INTERPRETED
from tests.attention.steps import STEPS, Pair, assert_close
from tests.kernels.test_under_the_interpreter import UNUSED

pytestmark = pytest.mark.usefixtures("fake")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("heads", [(6, 2), (5, 1), (2, 2)], ids=["grouped", "on_tensor_cores", "as_many"])
@pytest.mark.parametrize("page_size", [1, 4])
def test_steps_of_every_kind(page_size: int, heads: tuple[int, int]) -> None:
    pair = Pair(page_size, heads=heads)
    for number, runs in enumerate(STEPS):
        actual, expected = pair.step(runs, seed=number)
        assert actual.shape == expected.shape == (sum(length for *_, length in runs), heads[0] * pair.head_dim)
        assert_close(actual, expected)
        mine, theirs = (pool.layers[1] for pool in pair.pools)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def test_half_precision() -> None:
    pair = Pair(4, dtype=torch.bfloat16)
    for number, runs in enumerate(STEPS[:4]):
        assert_close(*pair.step(runs, seed=number))


def test_the_last_runs_of_one_token_go_through_the_decode_wrapper(fake: ModuleType) -> None:
    pair = Pair(4)
    pair.step([(0, 0, 20), (1, 0, 5), (2, 0, 8)])
    fake.Wrapper.calls.clear()
    pair.step([(3, 0, 9), (4, 0, 1), (1, 5, 2), (0, 20, 1), (2, 8, 1)])
    plans = {name: args for name, method, args, _ in fake.Wrapper.calls if method == "plan"}
    assert plans["BatchPrefillWithPagedKVCacheWrapper"][0].tolist() == [0, 9, 10, 12]
    assert plans["BatchDecodeWithPagedKVCacheWrapper"][0].tolist() == [0, 6, 9]
    assert plans["BatchDecodeWithPagedKVCacheWrapper"][2].tolist() == [1, 1]
    runs = [name for name, method, *_ in fake.Wrapper.calls if method == "run"]
    assert runs == ["BatchPrefillWithPagedKVCacheWrapper", "BatchDecodeWithPagedKVCacheWrapper"] * 2  # two layers
    fake.Wrapper.calls.clear()
    pair.step([(0, 21, 1)])
    assert {name for name, *_ in fake.Wrapper.calls} == {"BatchDecodeWithPagedKVCacheWrapper"}


def test_nothing_is_copied_on_the_way_to_the_kernels(fake: ModuleType) -> None:
    pair = Pair(4)
    batch = pair.batch([(0, 0, 6)])
    qkv = pair.heads(6)
    pair.flashinfer.plan(batch)
    fake.Wrapper.calls.clear()
    pair.actual(qkv, layer=1)
    ((_, _, (query, (keys, values)), _),) = fake.Wrapper.calls
    pool = pair.pools[0].layers[1]
    assert query.data_ptr() == qkv.data_ptr()
    assert keys.data_ptr() == pool[0].data_ptr()
    assert values.data_ptr() == pool[1].data_ptr()
    num_slots = pool.shape[2]
    assert keys.stride() == values.stride() == (4 * pair.head_dim, num_slots * pair.head_dim, pair.head_dim, 1)


@pytest.mark.parametrize("heads", [(6, 2), (5, 1)])
def test_a_padded_step_stores_nothing_for_padding(heads: tuple[int, int]) -> None:
    pair = Pair(4, heads=heads)
    pair.step([(0, 0, 9), (2, 0, 17)])
    pool = pair.pools[0].layers[0]
    pool.nan_to_num_(nan=3.0)  # a NaN isn't equal to itself
    batch, before = pair.batch([(2, 17, 1), (0, 9, 1)]), pool.clone()
    qkv = pair.heads(5, seed=5)
    pair.flashinfer.plan_padded(batch, 5)
    actual = pair.actual(qkv)
    assert_close(actual[:2], pair.expected(batch, qkv[:2]))
    changed = (pool != before).flatten(0, 1).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    assert changed == sorted(pair.flashinfer._slots[:2].tolist())


def test_each_size_of_a_graph_has_a_wrapper_that_stays(fake: ModuleType) -> None:
    pair = Pair(4)
    assert isinstance(pair.flashinfer, GraphedAttention)
    pair.step([(0, 0, 9), (2, 0, 17), (3, 0, 38)])
    fake.Wrapper.calls.clear()
    nothing = ForwardBatch.of_no_tokens(pair.device)
    for size in (4, 2, 1):  # as graphs are captured
        pair.flashinfer.plan_padded(nothing, size)
        pair.actual(pair.heads(size))
    wrappers = dict(pair.flashinfer._graphed)
    assert sorted(wrappers) == [1, 2, 4]
    addresses = {size: [one.data_ptr() for one in wrapper.fixed] for size, wrapper in wrappers.items()}
    for runs, size in (([(2, 17, 1), (0, 9, 1)], 2), ([(3, 38, 1)], 1), ([(0, 10, 1), (2, 18, 1), (3, 39, 1)], 4)):
        batch = pair.batch(runs)
        qkv = pair.heads(size, seed=size)
        pair.flashinfer.plan_padded(batch, size)
        for layer in range(2):
            assert_close(pair.actual(qkv, layer)[: len(runs)], pair.expected(batch, qkv[: len(runs)], layer))
        assert_close(*pair.step([(4, 0, 3), *((row, start + 1, 1) for row, start, _ in runs)]))  # without a graph
    assert pair.flashinfer._graphed == wrappers
    assert {size: [one.data_ptr() for one in wrapper.fixed] for size, wrapper in wrappers.items()} == addresses
    assert len({wrapper.plan_buffer.data_ptr() for wrapper in wrappers.values()}) == 1  # one step at a time
    assert [wrappers[size].num_plans for size in (1, 2, 4)] == [2, 2, 2]


@pytest.mark.parametrize("has_norm", [False, True])
def test_rotating_on_the_way(has_norm: bool) -> None:
    pair = Pair(4)
    pair.step([(0, 0, 6)])
    batch, qkv = pair.batch([(1, 0, 2), (0, 6, 1)]), pair.heads(3, seed=1)
    angles = torch.outer(torch.arange(32.0), 10.0 ** -torch.arange(0.0, 2.0, 0.25))
    cos, sin = angles.cos(), angles.sin()
    norm = QKNorm(torch.full((pair.head_dim,), 0.5), torch.ones(pair.head_dim), 1e-6)
    by_model = qkv.clone()
    if has_norm:
        sizes = {"num_heads": pair.num_heads, "num_kv_heads": pair.num_kv_heads}
        qk_norm_reference_(by_model, norm.q_weight, norm.k_weight, norm.eps, **sizes)
    whole_cos, whole_sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    rotated = by_model[:, : pair.num_heads + pair.num_kv_heads]
    rotate_(rotated, whole_cos[batch.positions].unsqueeze(1), whole_sin[batch.positions].unsqueeze(1))
    pair.flashinfer.plan(batch)
    actual = pair.flashinfer.rotate_and_attend(0, qkv, cos, sin, norm=norm if has_norm else None)
    assert_close(actual, pair.expected(batch, by_model))


def test_what_does_not_fit_is_refused() -> None:
    pair = Pair(4)
    with pytest.raises(EngineError, match="the step has 65 tokens, and the attention backend was made for at most 64"):
        pair.flashinfer.plan(pair.batch([(0, 0, 65)]))
    with pytest.raises(EngineError, match="2 tokens don't fit a graph of 1"):
        pair.flashinfer.plan_padded(pair.batch([(0, 3, 1), (1, 3, 1)]), 1)


def test_what_flashinfer_says_is_told_with_a_way_out(fake: ModuleType) -> None:
    pair = Pair(4)
    fake.Wrapper.fault = RuntimeError("Could not find nvcc")
    with pytest.raises(EngineError, match=r"Could not find nvcc\. It compiles .* nvcc .* ninja; .*-backend triton"):
        pair.flashinfer.plan(pair.batch([(0, 0, 5)]))
    with pytest.raises(EngineError, match="couldn't plan a step"):
        pair.flashinfer.plan_padded(pair.batch([(0, 3, 1)]), 1)
    fake.Wrapper.fault = torch.OutOfMemoryError("2 GiB")  # `engine/parts.py` names that
    with pytest.raises(torch.OutOfMemoryError):
        pair.flashinfer.plan(pair.batch([(0, 0, 5)]))
    fake.Wrapper.fault = None
    assert_close(*pair.step([(0, 0, 5)]))


@pytest.mark.skipif(INTERPRETED, reason="this is the process that the test starts")
def test_the_same_with_the_triton_kernels_interpreted() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    chosen = "padding and heads0 or rotating and True"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *UNUSED, "--tb=short", "-k", chosen, __file__],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-2000:]}"
    assert "2 passed" in result.stdout
