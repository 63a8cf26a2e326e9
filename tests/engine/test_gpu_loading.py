"""The second half of a start-up on a GPU, on a memory that is made up: its parts add up to what is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.attention.registry import BackendLimits, BackendNames, Backends
from learnsgl.attention.torch_backend import TorchAttention
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.gpu_loading import finish_on_gpu
from learnsgl.engine.kv_pool import KVPool
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.engine.parts import Parts, Phases
from learnsgl.engine.transfers import HOST
from learnsgl.errors import OutOfMemoryError
from learnsgl.models.dummy import fill_with_dummy_weights
from learnsgl.models.registry import model_class
from learnsgl.scheduler.executor import CapturedGraph
from tests.engine.fake_memory import BLOCK, FakeMemory, put_in_place
from tests.models.small_config import small_config

CPU = torch.device("cpu")
MODEL = small_config()
SCHEDULER = SchedulerConfig(max_running_requests=5, max_prefill_length=16)


class Padded(TorchAttention):
    """Padding attends to the first page, as FlashInfer's does."""

    def plan_padded(self, batch: ForwardBatch, num_padded: int) -> None:
        missing = num_padded - len(batch.rows)
        zeros = torch.zeros(missing, dtype=torch.int64)
        self.plan(
            replace(
                batch,
                rows=np.pad(batch.rows, (0, missing)),
                starts=np.pad(batch.starts, (0, missing)),
                lens=np.pad(batch.lens, (0, missing), constant_values=1),
                tenancies=np.pad(batch.tenancies, (0, missing)),
                token_rows=torch.cat((batch.token_rows, zeros)),
                positions=torch.cat((batch.positions, zeros)),
            )
        )


def make_backends(names: BackendNames, pool: KVPool, page_table: torch.Tensor, limits: BackendLimits) -> Backends:
    backend = Padded(pool, page_table, num_heads=limits.num_heads, max_dense_bytes=0)
    return Backends(backend, backend)


@contextmanager
def loaded(memory: FakeMemory, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Iterator[Parts]:
    """A model on a device of this memory, its weights filled."""
    put_in_place(memory, monkeypatch)
    monkeypatch.setattr("learnsgl.engine.device.available_bytes", lambda device: memory.total - memory.used)
    monkeypatch.setattr("learnsgl.engine.parts.make_backends", make_backends)
    config = EngineConfig(device="cpu", **changes)
    nothing = SimpleNamespace(
        stream=SimpleNamespace(synchronize=lambda: None), transfers=HOST, downloaded=lambda: None,
        clock=SimpleNamespace(renew=lambda: None),
    )  # fmt: skip
    with memory:
        model = model_class(MODEL.architecture)(MODEL, num_positions=64, dtype=torch.float32, device=CPU)
        fill_with_dummy_weights(model.checkpoint_tensors(), seed=0)
        names = BackendNames("triton", "triton")
        yield Parts(model, MODEL, config, SCHEDULER, names, torch.float32, CPU, nothing)  # type: ignore[arg-type]


def finish(parts: Parts) -> tuple[ModelRunner, dict[str, int], tuple[CapturedGraph, ...]]:
    assert parts.cuda is not None
    return finish_on_gpu(parts, parts.cuda, Phases(), lambda _: None)


@pytest.mark.parametrize("changes", [{"num_pages": 100}, {"num_pages": 4000}, {"cuda_graph_max_bs": 0}], ids=str)
def test_the_parts_add_up_to_what_is_gone(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    memory = FakeMemory(fragments=30_000)
    before = memory.used - memory.fragments
    with loaded(memory, monkeypatch, **changes) as parts:
        weights = memory.allocated
        runner, taken, captured = finish(parts)
        assert runner.pool.num_pages == changes.get("num_pages", 5 * 64)
        gone = memory.used - before
    assert sum(taken.values()) + weights == pytest.approx(gone, rel=0.02)
    assert [graph.size for graph in captured] == ([] if "cuda_graph_max_bs" in changes else [5, 4, 2, 1])
    of_graphs = memory.pool_reserved + memory.graph_bytes * len(captured)
    assert taken["graphs"] == sum(graph.num_bytes for graph in captured) == pytest.approx(of_graphs, abs=8 * BLOCK)


def test_no_graph_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture empties PyTorch's cache, which holds the largest step's workspace by then."""
    with loaded(FakeMemory(), monkeypatch, num_pages=100) as parts:
        _, taken, captured = finish(parts)
    assert all(graph.num_bytes > 9_000 for graph in captured)
    assert captured[0].num_bytes > captured[-1].num_bytes
    assert taken["workspace"] > captured[0].num_bytes, "or the test couldn't tell"


def test_pages_get_their_share_of_what_all_else_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = FakeMemory(total=1 << 24)
    monkeypatch.setattr("learnsgl.engine.gpu_loading.ALLOCATION_STEP", BLOCK)
    with loaded(memory, monkeypatch, memory_ratio=0.001) as parts:
        before = memory.used - memory.allocated
        weights = memory.allocated
        _, taken, _ = finish(parts)
    left = memory.total - before - weights - sum(taken.values()) + taken["kv_pages"]
    assert taken["kv_pages"] == pytest.approx(0.001 * left, rel=0.02)


def test_pages_that_the_graphs_leave_no_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        loaded(FakeMemory(total=32 << 20, graph_bytes=16 << 20), monkeypatch) as parts,
        pytest.raises(OutOfMemoryError, match="0 pages of KV cache hold 0 tokens"),
    ):
        finish(parts)
