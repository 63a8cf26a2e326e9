"""The second half of a start-up on a GPU: a trial that measures, KV pages from what is left, CUDA graphs, the warm-up.

`loading.py` calls `finish_on_gpu` when the weights are there. The trial runs the largest step and captures two graphs
with a single page, so that the pages get a share of what really remains.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from learnsgl.attention.registry import GRAPHED
from learnsgl.engine import device as devices
from learnsgl.engine.cuda_device import CudaDevice
from learnsgl.engine.graph import (
    CudaGraphRecorder,
    DecodeGraphs,
    GraphBuffers,
    GraphedAttention,
    choose_max_size,
    ladder,
)
from learnsgl.engine.memory import GPU_RATIO, MemoryPlan, plan_memory, wanted_model_len
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.engine.parts import Parts, Phases, out_of_memory
from learnsgl.engine.trial import Trial, libraries_of, read_memory, run_trial, workspace_of
from learnsgl.errors import OptionError
from learnsgl.scheduler.executor import CapturedGraph

Tell = Callable[[str], None]

ALLOCATION_STEP = 2 << 20
"""To a multiple of it PyTorch's allocator rounds up what it takes from the device for a large tensor."""

_SMALLER_STEPS = "free memory, or lower --max-prefill-length or --max-running-requests"
_FEWER_GRAPHS = "free memory, or lower --cuda-graph-max-bs (0 captures none) or --memory-ratio"


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of a GPU's memory beside weights and KV pages, from the trial.

    Attributes:
        workspace: what PyTorch's allocator holds for the largest step.
        libraries: what loaded kernels and libraries took beside it.
        graphs: an estimate of all CUDA graphs, from the two largest.
        buffers: tables of rows, plans of attention, inputs and outputs of graphs.
    """

    workspace: int
    libraries: int
    graphs: int
    buffers: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.workspace + self.libraries + self.graphs + self.buffers


def finish_on_gpu(
    parts: Parts, cuda: CudaDevice, phases: Phases, tell: Tell
) -> tuple[ModelRunner, dict[str, int], tuple[CapturedGraph, ...]]:
    """Make the runner, with pages and graphs, and warm it up.

    Returns:
        The runner, the bytes by purpose, and what the graphs took.

    Raises:
        OutOfMemoryError: the pages don't fit, or hold too little for one request.
        OptionError: graphs were asked for, and the attention backend can't be captured.
    """
    sizes = graph_sizes(parts)
    torch.cuda.empty_cache()  # loading may have left something
    available_bytes = devices.available_bytes(parts.device)
    with phases.timed("trial"), out_of_memory("the largest step's activations", _SMALLER_STEPS):
        measured = _measure(parts, cuda, sizes)
    with phases.timed("allocate_kv"), out_of_memory("the KV pages"):
        before_bytes = torch.cuda.memory_allocated(parts.device)
        rounded_up = ALLOCATION_STEP * parts.config.num_layers
        plan = _plan(parts, available_bytes - measured.total - rounded_up, measured.workspace)
        runner = parts.make_runner(plan.num_pages, plan.max_model_len)
        buffers = _make_buffers(parts, sizes)
        pages_bytes = plan.num_pages * plan.page_bytes
        allocated_bytes = torch.cuda.memory_allocated(parts.device)
        rounding_bytes = torch.cuda.memory_reserved(parts.device) - allocated_bytes
        buffer_bytes = allocated_bytes - before_bytes - pages_bytes + rounding_bytes
    trial = _trial(parts, plan.max_model_len)
    with phases.timed("warm_up"), out_of_memory("the warm-up's activations", _SMALLER_STEPS), torch.inference_mode():
        run_trial(runner, trial)
    captured: list[CapturedGraph] = []
    if buffers is not None:
        with phases.timed("capture_graphs"), out_of_memory("the CUDA graphs", _FEWER_GRAPHS), torch.inference_mode():
            graphs = DecodeGraphs(parts.model, _graphed(runner), buffers)
            captured = graphs.capture(sizes, CudaGraphRecorder(parts.device, cuda.stream), tell)
            runner.graphs = graphs
            # once more: a capture gives back what PyTorch's allocator keeps for the next step
            run_trial(runner, trial)
    cuda.downloaded()
    devices.wait_for(parts.device)
    cuda.clock.renew()
    memory = {
        "kv_pages": pages_bytes,
        "workspace": measured.workspace,
        "libraries": measured.libraries,
        "graphs": sum(graph.num_bytes for graph in captured),
        "buffers": buffer_bytes,
    }
    return runner, memory, tuple(captured)


def graph_sizes(parts: Parts) -> list[int]:
    """The batch sizes to capture; none where the attention backend that decodes can't be captured.

    Raises:
        OptionError: graphs were asked for all the same.
    """
    wanted = parts.engine.cuda_graph_max_bs
    if parts.backends.decode not in GRAPHED:
        if wanted:
            raise OptionError(
                f"--cuda-graph-max-bs is {wanted}, and --attention-backend {parts.backends} can't decode in a CUDA "
                f"graph; only {' and '.join(GRAPHED)} can. Take one of these for decoding, or leave "
                "--cuda-graph-max-bs out"
            )
        return []
    return ladder(choose_max_size(wanted, max_running_requests=parts.scheduler.max_running_requests))


@torch.inference_mode()
def _measure(parts: Parts, cuda: CudaDevice, sizes: list[int]) -> Measured:
    """Run the trial on a runner with a single page, and capture two graphs."""
    before = read_memory(parts.device)
    torch.cuda.reset_peak_memory_stats(parts.device)
    max_model_len = wanted_model_len(parts.config, parts.engine)
    allocated_bytes = torch.cuda.memory_allocated(parts.device)
    runner = parts.make_runner(1, max_model_len)
    made_bytes = torch.cuda.memory_allocated(parts.device) - allocated_bytes
    run_trial(runner, _trial(parts, max_model_len))
    cuda.downloaded()  # what the trial gave is of no use, but would wait for its download
    after = read_memory(parts.device)
    graph_bytes = 0
    buffers = _make_buffers(parts, sizes)
    if buffers is not None:
        # The largest brings the pool's memory, the next one what each graph adds.
        recorder = CudaGraphRecorder(parts.device, cuda.stream)
        captured = DecodeGraphs(parts.model, _graphed(runner), buffers).capture(sizes[-2:], recorder)
        each_bytes = captured[-1].num_bytes if len(captured) > 1 else 0
        graph_bytes = captured[0].num_bytes + (len(sizes) - 1) * each_bytes
    page_bytes = runner.pool.token_bytes * parts.engine.page_size
    buffer_bytes = made_bytes - page_bytes + (0 if buffers is None else buffers.nbytes)
    del runner, buffers
    gc.collect()
    torch.cuda.empty_cache()
    return Measured(
        workspace_of(before, after, made_bytes=made_bytes), libraries_of(before, after), graph_bytes, buffer_bytes
    )  # fmt: skip


def _trial(parts: Parts, max_model_len: int) -> Trial:
    return Trial.of(
        parts.scheduler, max_model_len=max_model_len, page_size=parts.engine.page_size,
        is_copying=parts.backends.decode == "torch",
    )  # fmt: skip


def _plan(parts: Parts, available_bytes: int, workspace_bytes: int) -> MemoryPlan:
    return plan_memory(
        parts.config, parts.engine, parts.scheduler, dtype=parts.dtype, available_bytes=available_bytes,
        default_ratio=GPU_RATIO, measured_workspace=workspace_bytes,
    )  # fmt: skip


def _make_buffers(parts: Parts, sizes: list[int]) -> GraphBuffers | None:
    if not sizes:
        return None
    return GraphBuffers.make(
        sizes[-1], vocab_size=parts.config.vocab_size, dtype=parts.dtype, device=parts.device
    )  # fmt: skip


def _graphed(runner: ModelRunner) -> GraphedAttention:
    attention = runner.attention.decode
    assert isinstance(attention, GraphedAttention), "graph_sizes has looked"
    return attention
