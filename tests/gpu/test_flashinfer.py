"""The real FlashInfer beside the torch backend on a GPU, in graphs, and in an engine; skipped without the package."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from learnsgl.attention.backend import ForwardBatch
from tests.attention.steps import STEPS, Pair, assert_close
from tests.engine.driver import generate
from tests.engine.reference import assert_same_greedy, make_model, rounding_margin
from tests.gpu.test_engine import PROMPTS, running

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("flashinfer") is None,
    reason="the package flashinfer-python isn't installed: pip install 'learnsgl[flashinfer]'",
)

GROUPS = [(4, 2), (8, 2), (7, 1)]
"""Query and KV heads: on plain cores, on tensor cores, and a group that only these know."""


@pytest.mark.parametrize(
    ("heads", "head_dim", "dtype"),
    [*((heads, 128, torch.bfloat16) for heads in GROUPS), ((8, 2), 64, torch.float16)],
    ids=str,
)
@pytest.mark.parametrize("page_size", [1, 16])
def test_steps_of_every_kind(page_size: int, heads: tuple[int, int], head_dim: int, dtype: torch.dtype) -> None:
    """Each head_dim and dtype is compiled by FlashInfer on its own, so there are few."""
    pair = Pair(page_size, heads=heads, head_dim=head_dim, dtype=dtype, device="cuda")
    for number, runs in enumerate(STEPS):
        assert_close(*pair.step(runs, seed=number))


def test_a_long_context_that_is_split() -> None:
    pair = Pair(1, heads=(8, 2), head_dim=128, dtype=torch.bfloat16, device="cuda", max_pages=4096)
    for start in range(0, 4032, 64):
        actual, expected = pair.step([(0, start, 64)], seed=start)
    assert_close(actual, expected)
    pair.step([(1, 0, 9)])
    assert_close(*pair.step([(0, 4032, 1), (1, 9, 1)]))
    assert_close(*pair.step([(0, 4033, 5), (1, 10, 1)]))


@pytest.mark.parametrize("heads", GROUPS)
def test_a_graph_that_was_captured_once_serves_other_rows_and_lengths(heads: tuple[int, int]) -> None:
    pair = Pair(4, heads=heads, head_dim=128, dtype=torch.bfloat16, device="cuda")
    pair.step([(0, 0, 9), (2, 0, 17), (3, 0, 38)])
    qkv, graphs = pair.heads(4, seed=1), {}
    for size in (4, 2):
        pair.flashinfer.plan_padded(ForwardBatch.of_no_tokens(pair.device), size)
        pair.actual(qkv[:size])  # compiles
        graphs[size] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[size]):
            out = pair.actual(qkv[:size])
        graphs[size].out = out
    for runs, size in (
        ([(2, 17, 1), (0, 9, 1)], 4), ([(3, 38, 1)], 2), ([(0, 10, 1), (2, 18, 1), (3, 39, 1)], 4), ([(3, 40, 1)], 4),
        ([(2, 19, 1), (0, 11, 1)], 2),
    ):  # fmt: skip
        batch = pair.batch(runs)
        pair.flashinfer.plan_padded(batch, size)
        graphs[size].replay()
        assert_close(graphs[size].out[: len(runs)], pair.expected(batch, qkv[: len(runs)]))
        pair.actual(qkv[:size], layer=1)  # the other layer's pages, which a later step reads
        pair.expected(batch, qkv[: len(runs)], layer=1)
        pair.step([(4, 0, 3)])  # a step without a graph in between


def test_no_call_of_torch_waits_for_the_device() -> None:
    pair = Pair(16, heads=(8, 2), head_dim=128, dtype=torch.bfloat16, device="cuda")
    batches = [pair.batch(runs) for runs in STEPS]
    heads = [pair.heads(len(batch.positions)) for batch in batches]
    nothing = ForwardBatch.of_no_tokens(pair.device)

    def run_all() -> None:
        for batch, qkv in zip(batches, heads, strict=True):
            pair.flashinfer.plan(batch)
            pair.actual(qkv)
        for size in (1, 4):
            pair.flashinfer.plan_padded(nothing, size)
            pair.actual(heads[0][:size])

    run_all()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run_all()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    """FlashInfer's kernels are for heads of 64 features and more."""
    folder = tmp_path_factory.mktemp("wide")
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
    return folder, make_model(folder, architecture="qwen3", tie_word_embeddings=True, **heads)


@pytest.mark.parametrize("backend", ["flashinfer", "flashinfer,triton", "triton,flashinfer"])
@pytest.mark.parametrize("max_bs", [None, 0])
def test_greedy_tokens_are_the_references(
    backend: str, max_bs: int | None, model: tuple[Path, PreTrainedModel]
) -> None:
    folder, reference = model
    rounded = copy.deepcopy(reference)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    for overlap in (True, False):
        changes = {"attention_backend": backend, "cuda_graph_max_bs": max_bs, "page_size": 16, "num_pages": 256}
        with running(folder, torch.bfloat16, **changes) as engine:
            assert bool(engine.info.graphs) == (max_bs is None)
            outputs = generate(engine, PROMPTS, 12, chunk=20, overlap=overlap)
        compared = [
            assert_same_greedy(
                reference, prompt, output, margin=rounding_margin(reference, rounded, [*prompt, *output])
            )
            for prompt, output in zip(PROMPTS, outputs, strict=True)
        ]
        assert sum(compared) >= 12
