"""A GPU's memory that is made up: what PyTorch's allocator, CUDA graphs and the driver would hold, counted on a CPU.

`test_gpu_loading.py` puts it in the place of `torch.cuda`. It is as strict as CUDA in what start-up depends on: memory
that was freed stays reserved until `empty_cache`, a capture begins with that, and a graph's memory is its pool's.
"""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512
"""Bytes; to a multiple of it an allocation is rounded up."""


class FakeMemory(TorchDispatchMode):
    """Counts the tensors that operators make within it.

    Attributes:
        total: bytes of the device.
        driver: bytes beside PyTorch's allocator.
        fragments: bytes that the allocator has reserved and can't use.
        graph_bytes: what the driver takes for a graph.
    """

    def __init__(self, *, total: int = 1 << 34, fragments: int = 0, graph_bytes: int = 10_000) -> None:
        super().__init__()
        self.total, self.driver, self.fragments, self.graph_bytes = total, 50_000, fragments, graph_bytes
        self.allocated = self.cached = self.peak = 0
        self.pool_live = self.pool_reserved = self.num_graphs = 0
        self.is_capturing = False
        self._known: set[int] = set()

    @property
    def reserved(self) -> int:
        return self.allocated + self.cached + self.pool_reserved + self.fragments

    @property
    def used(self) -> int:
        return self.reserved + self.driver

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if key in self._known or not size:
            return
        self._known.add(key)
        weakref.finalize(storage, self._free, key, size, self.is_capturing)
        if self.is_capturing:
            self.pool_live += size
            self.pool_reserved = max(self.pool_reserved, self.pool_live)
        else:
            self.allocated += size
            self.cached = max(0, self.cached - size)
        self.peak = max(self.peak, self.reserved)

    def _free(self, key: int, size: int, is_pooled: bool) -> None:
        self._known.discard(key)
        if is_pooled:
            self.pool_live -= size
        else:
            self.allocated -= size
            self.cached += size

    def empty_cache(self) -> None:
        assert not self.is_capturing, "a capture forbids it"
        self.cached = 0

    def add_graph(self, graph: object) -> None:
        self.num_graphs += 1
        self.driver += self.graph_bytes
        weakref.finalize(graph, self._drop_graph)

    def _drop_graph(self) -> None:
        self.num_graphs -= 1
        self.driver -= self.graph_bytes
        if not self.num_graphs:
            self.pool_reserved = 0


class FakeGraph:
    """Takes its memory from the driver when it is replayed for the first time, as graphs of CUDA do."""

    memory: FakeMemory

    def __init__(self) -> None:
        self.is_captured = self.was_replayed = False

    def replay(self) -> None:
        assert self.is_captured, "a graph is captured before it is replayed"
        if not self.was_replayed:
            self.memory.add_graph(self)
        self.was_replayed = True


class FakeCapture:
    """`torch.cuda.graph`."""

    def __init__(self, graph: FakeGraph, *, pool: object, stream: object) -> None:
        self._graph = graph

    def __enter__(self) -> None:
        self._graph.memory.empty_cache()
        self._graph.memory.is_capturing = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._graph.memory.is_capturing = False
        self._graph.is_captured = True


def put_in_place(memory: FakeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `torch.cuda` tell of this memory."""

    def reset_peak(device: object) -> None:
        memory.peak = memory.reserved

    monkeypatch.setattr(FakeGraph, "memory", memory, raising=False)
    for name, fake in {
        "memory_allocated": lambda device: memory.allocated, "memory_reserved": lambda device: memory.reserved,
        "max_memory_reserved": lambda device: memory.peak, "reset_peak_memory_stats": reset_peak,
        "empty_cache": memory.empty_cache, "mem_get_info": lambda device: (memory.total - memory.used, memory.total),
        "synchronize": lambda device: None, "graph_pool_handle": lambda: (0, 1), "graph": FakeCapture,
        "CUDAGraph": FakeGraph,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"torch.cuda.{name}", fake)
