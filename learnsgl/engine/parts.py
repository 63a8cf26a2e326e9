"""What a runner is made of, how its start-up is timed, and how memory that runs out is named.

`loading.py` puts the parts together; on a GPU a runner is made of them twice: for the trial, and for good.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from learnsgl.attention.registry import BackendLimits, BackendNames, make_backends, why_unavailable
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.choose_tokens import choose_with_torch, choose_with_triton
from learnsgl.engine.cuda_device import CudaDevice
from learnsgl.engine.kv_pool import KVPool
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.engine.row_tables import RowTables
from learnsgl.engine.transfers import HOST
from learnsgl.errors import OutOfMemoryError
from learnsgl.models.config import ModelConfig
from learnsgl.models.registry import CausalLM


@dataclass(frozen=True, slots=True)
class Parts:
    """A loaded model, and all that decides how it runs; `cuda` is there on a GPU."""

    model: CausalLM
    config: ModelConfig
    engine: EngineConfig
    scheduler: SchedulerConfig
    backends: BackendNames
    dtype: torch.dtype
    device: torch.device
    cuda: CudaDevice | None

    def make_runner(self, num_pages: int, max_model_len: int, *, max_dense_bytes: int = 0) -> ModelRunner:
        """A runner with pages and tables of its own; nothing has run on it."""
        transfers = HOST if self.cuda is None else self.cuda.transfers
        pool = KVPool(
            self.config, num_pages=num_pages, page_size=self.engine.page_size, dtype=self.dtype, device=self.device
        )
        has_triton = why_unavailable("triton", self.device, head_dim=1) is None
        tables = RowTables(
            num_rows=self.scheduler.max_running_requests,
            max_model_len=max_model_len,
            page_size=self.engine.page_size,
            vocab_size=self.config.vocab_size,
            eos_ids=self.config.eos_ids,
            seed=self.engine.seed,
            device=self.device,
            transfers=transfers,
            samples_on_device=has_triton,
        )
        limits = BackendLimits(
            num_heads=self.config.num_heads,
            max_tokens=self.scheduler.max_prefill_length + self.scheduler.max_running_requests,
            max_context_len=max_model_len,
            max_dense_bytes=max_dense_bytes,
        )
        attention = make_backends(self.backends, pool, tables.page_table, limits)
        return ModelRunner(
            self.model, attention, tables, max_model_len, pool,
            choose_tokens=choose_with_triton if has_triton else choose_with_torch, transfers=transfers,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phases:
    """The parts of a start-up: (name, start_ns, end_ns) on `time.monotonic_ns`."""

    done: list[tuple[str, int, int]] = field(default_factory=list)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """What runs within is a phase."""
        start_ns = time.monotonic_ns()
        yield
        self.done.append((name, start_ns, time.monotonic_ns()))


_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED", re.IGNORECASE)
"""How PyTorch, its allocators on both sides, cuBLAS and Triton say it, where they have no exception class for it."""


@contextmanager
def out_of_memory(what: str, remedy: str = "free memory, or lower --memory-ratio or --max-model-len") -> Iterator[None]:
    """Turn an allocation that fails into our error, whoever's it was.

    Args:
        what: was to be put into memory.
        remedy: what can be done.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        failed = _failed_allocation(error)
        if failed is None:
            raise
        said = str(failed).splitlines()[0] if str(failed) else type(failed).__name__
        raise OutOfMemoryError(f"{what} don't fit into memory: {said}; {remedy}") from error


def _failed_allocation(error: BaseException) -> BaseException | None:
    """The failed allocation behind an error: one within the capture of a graph is hidden by the capture's own end."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY.search(str(seen)):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
