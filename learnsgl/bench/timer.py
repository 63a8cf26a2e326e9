"""Times work on a GPU alone: between two events, as a CUDA graph, the L2 cache cold, nothing of the host in it.

`kernels.py` times the engine's kernels with it, and `ceilings.py` a large copy and a large matrix product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_FLUSH_BYTES = 256 * 1024 * 1024
"""More than any L2 cache holds; written before each timing, so that nothing is found there."""


class Timer:
    """Times what is called, on one GPU.

    Args:
        device: the GPU.
        repeats: timings of each, after one that doesn't count.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self._repeats = repeats
        self._flushed = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)

    def times_us(self, compute: Callable[[], object]) -> list[float]:
        """How long `compute` takes, each time."""
        graph = self._capture(compute)
        pairs = []
        for _ in range(self._repeats + 1):
            self._flushed.zero_()
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            before.record()
            graph.replay()
            after.record()
            pairs.append((before, after))
        torch.cuda.synchronize()
        return [1e3 * before.elapsed_time(after) for before, after in pairs[1:]]

    def _capture(self, compute: Callable[[], object]) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # what is compiled or allocated the first time may not be within a capture
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            compute()
        return graph
