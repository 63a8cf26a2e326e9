"""What only a GPU can show: a captured graph follows its contexts, and nothing waits for the device."""

from __future__ import annotations

import pytest
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.kernels.sampling import SamplingTensors, sample_tokens
from tests.kernels.cases import assert_close
from tests.kernels.conftest import INTERPRETED
from tests.kernels.test_triton_backend import NUM_HEADS, STEPS, Pair

pytestmark = pytest.mark.skipif(INTERPRETED, reason="CUDA graphs and streams aren't interpreted")


def test_a_graph_that_was_captured_once_serves_other_rows_and_lengths(device: torch.device) -> None:
    pair = Pair(device, 4)
    pair.step([(0, 0, 9), (2, 0, 17), (3, 0, 40)])
    qkv = pair.heads(4, seed=1)
    pair.triton.plan_padded(ForwardBatch.of_no_tokens(device), 4)
    pair.triton.forward(0, qkv[:, :NUM_HEADS], qkv[:, NUM_HEADS:])  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = pair.triton.forward(0, qkv[:, :NUM_HEADS], qkv[:, NUM_HEADS:])
    for runs in ([(2, 17, 1), (0, 9, 1)], [(3, 40, 1)], [(0, 10, 1), (2, 18, 1), (3, 41, 1)]):
        batch = pair.batch(runs)
        pair.triton.plan_padded(batch, 4)
        graph.replay()
        pair.torch.plan(batch)
        expected = pair.torch.forward(0, qkv[: len(runs), :NUM_HEADS], qkv[: len(runs), NUM_HEADS:])
        assert_close(out[: len(runs)], expected)
        assert not out[len(runs) :].any()


def test_planning_attending_and_sampling_never_wait_for_the_device(device: torch.device) -> None:
    pair = Pair(device, 4)
    batches = [pair.batch(runs) for runs in STEPS]
    heads = [pair.heads(len(batch.positions), seed=0) for batch in batches]
    logits = torch.randn(3, 5000, device=device)
    some = torch.ones(3, device=device)
    ids = torch.arange(3, device=device)
    params = SamplingTensors(some, (40 * some).int(), 0.9 * some, 0.0 * some, ids, ids)

    def run() -> None:
        for batch, qkv in zip(batches, heads, strict=True):
            pair.triton.plan(batch)
            pair.triton.forward(0, qkv[:, :NUM_HEADS], qkv[:, NUM_HEADS:])
        sample_tokens(logits, params)

    run()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
