"""The ladder of CUDA graphs, which step takes which, and padding; with graphs that run their work again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from learnsgl.attention.backend import AttentionBackend, ForwardBatch
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.gpu_loading import graph_sizes
from learnsgl.engine.graph import DecodeGraphs, GraphBuffers, choose_max_size, ladder
from learnsgl.errors import OptionError
from learnsgl.scheduler.executor import Step
from tests.engine.driver import int32


class Again:
    """A graph that isn't one."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work


class Recorder:
    """Each graph takes 10 bytes, the first 90 more."""

    def __init__(self) -> None:
        self.bytes = 1000

    def record(self, work: Callable[[], None]) -> Again:
        work()
        self.bytes += 10 if self.bytes > 1000 else 100
        return Again(work)

    def used_bytes(self) -> int:
        return self.bytes


class Attention:
    """Remembers for how many tokens of how many it planned."""

    def __init__(self) -> None:
        self.planned: list[tuple[int, int]] = []

    def plan(self, batch: ForwardBatch) -> None:
        raise AssertionError("a graph's step is planned with padding")

    def plan_padded(self, batch: ForwardBatch, num_padded: int) -> None:
        self.planned.append((len(batch.token_rows), num_padded))

    def forward(self, layer: int, query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
        return query


class Model:
    """Logits say which token went in."""

    def forward(self, batch: ForwardBatch, attention: AttentionBackend, *, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(batch.input_ids.unsqueeze(1).float().expand(-1, out.shape[1]))


def graphs_of(sizes: list[int]) -> tuple[DecodeGraphs, Attention]:
    attention = Attention()
    buffers = GraphBuffers.make(sizes[-1], vocab_size=5, dtype=torch.float32, device=torch.device("cpu"))
    graphs = DecodeGraphs(Model(), attention, buffers)  # type: ignore[arg-type]
    told: list[str] = []
    captured = graphs.capture(sizes, Recorder(), told.append)
    assert [graph.size for graph in captured] == sizes[::-1]
    assert [graph.num_bytes for graph in captured] == [100] + [10] * (len(sizes) - 1)
    assert len(told) == len(sizes)
    assert told[0].startswith(f"CUDA graph 1/{len(sizes)}: batch size {sizes[-1]}, ")
    assert attention.planned == [(0, size) for size in sizes[::-1]]
    attention.planned.clear()
    return graphs, attention


def decode(num_rows: int, *, lens: int = 1, wants: int = 1) -> Step:
    ones = np.ones(num_rows, dtype=np.int32)
    return Step(1, (), ones, ones, lens * ones, wants * ones, 0 * ones, int32([]), int32([]))


def test_the_ladder_ends_where_it_is_told_to() -> None:
    assert ladder(0) == []
    assert ladder(1) == [1]
    assert ladder(5) == [1, 2, 4, 5]
    assert ladder(8) == [1, 2, 4, 8]
    assert ladder(64)[-3:] == [48, 56, 64]
    assert len(ladder(256)) == 23
    assert ladder(300)[-3:] == [256, 288, 300]


@pytest.mark.parametrize("size", [9, 64, 100, 256, 300])
def test_padding_is_limited_and_sizes_ascend(size: int) -> None:
    sizes = ladder(size)
    assert sizes == sorted(set(sizes))
    for num_rows in range(1, size + 1):
        padded = next(s for s in sizes if s >= num_rows)
        assert padded - num_rows < (8 if num_rows <= 64 else 16 if num_rows <= 256 else 32)


def test_how_many_may_be_captured() -> None:
    assert choose_max_size(None, max_running_requests=64) == 64
    assert choose_max_size(None, max_running_requests=1000) == 256
    assert choose_max_size(32, max_running_requests=64) == 32
    assert choose_max_size(500, max_running_requests=64) == 64
    assert choose_max_size(0, max_running_requests=64) == 0


def test_which_step_takes_which() -> None:
    graphs, _ = graphs_of([1, 2, 4, 8])
    assert [graphs.size_for(decode(num_rows)) for num_rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert graphs.size_for(decode(9)) is None
    assert graphs.size_for(decode(2, lens=3)) is None
    assert graphs.size_for(decode(2, wants=0)) is None


def test_a_replay_reads_the_steps_own_tokens() -> None:
    graphs, attention = graphs_of([1, 4])
    ids = torch.tensor([7, 8, 9], dtype=torch.int32)
    batch = ForwardBatch(
        rows=int32([0, 1, 2]), starts=int32([3, 3, 3]), lens=int32([1, 1, 1]), tenancies=np.ones(3, dtype=np.int64),
        token_rows=torch.arange(3), positions=torch.full((3,), 3), input_ids=ids, logit_indices=None,
    )  # fmt: skip
    graphs.input_ids(3).copy_(ids)
    graphs.plan(batch, 4)
    logits = graphs.replay(3, 4)
    assert logits[:, 0].tolist() == [7, 8, 9]
    assert attention.planned == [(3, 4)]


def test_only_triton_decodes_in_graphs(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from learnsgl.attention.registry import BackendNames

    def sizes(prefill: str, decode: str, wanted: int | None) -> list[int]:
        parts = SimpleNamespace(
            engine=EngineConfig(cuda_graph_max_bs=wanted), backends=BackendNames(prefill, decode),
            scheduler=SchedulerConfig(max_running_requests=4),
        )  # fmt: skip
        return graph_sizes(parts)  # type: ignore[arg-type]

    assert sizes("torch", "triton", None) == [1, 2, 4]
    assert sizes("triton", "torch", None) == sizes("torch", "torch", 0) == sizes("triton", "triton", 0) == []
    with pytest.raises(OptionError, match="--cuda-graph-max-bs is 8, and --attention-backend triton,torch can't"):
        sizes("triton", "torch", 8)
