"""CUDA graphs of decode steps: captured once for a ladder of batch sizes, replayed with one launch instead of hundreds.

A step of n rows takes the smallest graph that holds n, and is padded up to it. `loading.py` captures the graphs;
`ModelRunner` replays them. What makes a graph is passed in, so that tests do without a GPU.

Source: the ladder, and one memory pool for all sizes with the largest captured first, as in vLLM and SGLang.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from learnsgl.attention.backend import AttentionBackend, ForwardBatch
from learnsgl.models.registry import CausalLM
from learnsgl.scheduler.executor import CapturedGraph, Step

DEFAULT_MAX_SIZE = 256
"""The largest graph where `--cuda-graph-max-bs` isn't given and more requests may run; beyond, launches are hidden."""


@runtime_checkable
class GraphedAttention(AttentionBackend, Protocol):
    """An attention backend that can plan for a graph: `TritonAttention` and `FlashInferAttention` are such."""

    def plan_padded(self, batch: ForwardBatch, num_padded: int) -> None:
        """Plan a step in which all rows decode, padded to `num_padded` tokens: see `TritonAttention.plan_padded`."""
        ...


class Graph(Protocol):
    """Recorded work of the device."""

    def replay(self) -> None:
        """Queue it again, on the current stream."""
        ...


class GraphRecorder(Protocol):
    """Makes graphs that share their memory."""

    def record(self, work: Callable[[], None]) -> Graph:
        """Run the work once or more to warm it up, then record it."""
        ...

    def used_bytes(self) -> int:
        """Memory of the device that is taken now, by whatever it is; differences are what graphs took."""
        ...


class CudaGraphRecorder:
    """The real one (`GraphRecorder`)."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        """Capture on `stream`, which is the current one when graphs are recorded."""
        self._device = device
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Graph:
        """See `GraphRecorder.record`."""
        # Kernels are compiled and loaded, and libraries take their workspaces, when they first run: a capture forbids
        # all of that. Twice, because the second run is the first whose launches find everything cached.
        work()
        work()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        graph.replay()  # its first replay puts it into the device's memory, which `used_bytes` is to see
        return graph

    def used_bytes(self) -> int:
        """See `GraphRecorder.used_bytes`."""
        torch.cuda.synchronize(self._device)
        # A capture begins by giving back what PyTorch's allocator keeps for later; that is nothing a graph gave back.
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def choose_max_size(wanted: int | None, *, max_running_requests: int) -> int:
    """The largest batch size to capture: `--cuda-graph-max-bs`, or as many as run at once up to a limit; 0 is none."""
    most = DEFAULT_MAX_SIZE if wanted is None else wanted
    return min(most, max_running_requests)


def ladder(max_size: int) -> list[int]:
    """Batch sizes to capture, ascending: 1, 2, 4, 8, then steps of 8 up to 64, 16 up to 256, and 32 beyond.

    A step is thus padded by at most as many rows as it has, and from 64 rows on by less than a quarter. The ladder of
    256 has 23 graphs.
    """
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_size + 1, 32)]
    return [*(size for size in sizes if size < max_size), *([max_size] if max_size else [])]


@dataclass(frozen=True, slots=True)
class GraphBuffers:
    """What graphs read and write, at addresses that stay; every graph uses the first rows of each.

    Attributes:
        input_ids: int32 [max_size].
        positions: int64 [max_size]; zeros. The kernels read positions from the attention backend's own buffers.
        logits: [max_size, V], the model's dtype. One for all graphs: each would keep its own otherwise.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def make(cls, max_size: int, *, vocab_size: int, dtype: torch.dtype, device: torch.device) -> GraphBuffers:
        """Buffers for graphs up to a size."""
        return cls(
            torch.zeros(max_size, dtype=torch.int32, device=device),
            torch.zeros(max_size, dtype=torch.int64, device=device),
            torch.zeros(max_size, vocab_size, dtype=dtype, device=device),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return self.input_ids.nbytes + self.positions.nbytes + self.logits.nbytes


class DecodeGraphs:
    """Graphs of the forward pass of steps in which all rows decode and all want a token."""

    def __init__(self, model: CausalLM, attention: GraphedAttention, buffers: GraphBuffers) -> None:
        self._model = model
        self._attention = attention
        self._buffers = buffers
        self._graphs: dict[int, Graph] = {}
        self._sizes = np.zeros(0, dtype=np.int64)

    def capture(
        self, sizes: list[int], recorder: GraphRecorder, tell: Callable[[str], None] = lambda _: None
    ) -> list[CapturedGraph]:
        """Capture the forward pass of these batch sizes, the largest first, so that the others fit into its memory.

        Args:
            sizes: ascending; at most as large as the buffers.
            recorder: makes the graphs.
            tell: is given a line of progress after each.

        Returns:
            What each took, in the order of capture.
        """
        captured: list[CapturedGraph] = []
        nothing = ForwardBatch.of_no_tokens(self._buffers.positions.device)
        used_bytes = recorder.used_bytes()
        for size in reversed(sizes):
            start_ns = time.monotonic_ns()
            # All of the batch is padding: nothing is stored in any page, and contexts are empty.
            self._attention.plan_padded(nothing, size)
            batch = self._padding_only(size)

            def work(batch: ForwardBatch = batch, size: int = size) -> None:
                self._model.forward(batch, self._attention, out=self._buffers.logits[:size])

            self._graphs[size] = recorder.record(work)
            before, used_bytes = used_bytes, recorder.used_bytes()
            captured.append(CapturedGraph(size, used_bytes - before, start_ns, time.monotonic_ns()))
            took_ms = (captured[-1].end_ns - start_ns) / 1e6
            tell(
                f"CUDA graph {len(captured)}/{len(sizes)}: batch size {size}, {took_ms:.0f} ms, "
                f"{captured[-1].num_bytes / 2**20:.1f} MiB"
            )
        self._sizes = np.array(sizes, dtype=np.int64)
        return captured

    def size_for(self, step: Step) -> int | None:
        """The size of the graph that the step takes; `None` where it must run without one."""
        num_rows = len(step.rows)
        if not len(self._sizes) or num_rows > self._sizes[-1] or step.num_prompt_logits is not None:
            return None
        if int(step.lens.max()) > 1 or not step.wants_token.all():
            return None
        return int(self._sizes[np.searchsorted(self._sizes, num_rows)])

    def input_ids(self, num_rows: int) -> torch.Tensor:
        """Where graphs read the token ids of a step of n rows: int32 [n], to be written."""
        return self._buffers.input_ids[:num_rows]

    def plan(self, batch: ForwardBatch, size: int) -> None:
        """Plan the attention of a step that takes the graph of this size, from `size_for`."""
        self._attention.plan_padded(batch, size)

    def replay(self, num_rows: int, size: int) -> torch.Tensor:
        """Run the forward pass of a step of n rows that was planned, and whose ids were written.

        Returns:
            Logits [n, V], until the next replay overwrites them.
        """
        self._graphs[size].replay()
        return self._buffers.logits[:num_rows]

    def _padding_only(self, size: int) -> ForwardBatch:
        ones = np.ones(size, dtype=np.int32)
        return ForwardBatch(
            rows=ones * 0,
            starts=ones * 0,
            lens=ones,
            tenancies=np.zeros(size, dtype=np.int64),
            token_rows=self._buffers.positions[:size],
            positions=self._buffers.positions[:size],
            input_ids=self._buffers.input_ids[:size],
            logit_indices=None,
        )
