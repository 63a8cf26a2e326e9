"""How many pages of KV cache there are, and how long a request may be: sums over bytes, made once at start-up.

`loading.py` asks before it takes memory, so that what doesn't fit is refused with numbers and not by the allocator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.kv_pool import KVPool
from learnsgl.errors import OptionError, OutOfMemoryError
from learnsgl.models.config import ModelConfig
from learnsgl.models.registry import CausalLM

CPU_RATIO, GPU_RATIO = 0.25, 0.9
"""Shares of what is free that pages take where `--memory-ratio` doesn't say. A CPU's memory belongs to others too."""

LEAST_TOKENS = 16
"""A server whose pages hold fewer tokens than this (and than its context) is no use, so it doesn't start."""


@dataclass(frozen=True)
class MemoryPlan:
    """What the KV cache takes.

    Attributes:
        num_pages: pages to allocate.
        max_model_len: most tokens of one request.
        page_bytes: of one page, over all layers.
        dense_bytes: most that dense copies of decoding contexts take; they are made as they are needed.
        workspace_bytes: what the largest step needs beside weights and pages: estimated on a CPU, measured on a GPU.
    """

    num_pages: int
    max_model_len: int
    page_bytes: int
    dense_bytes: int
    workspace_bytes: int


def wanted_model_len(model: ModelConfig, config: EngineConfig) -> int:
    """The context to serve, before memory is looked at.

    Raises:
        OptionError: `--max-model-len` is more than the model was made for.
    """
    if config.max_model_len is None:
        return model.max_position_embeddings
    if config.max_model_len > model.max_position_embeddings:
        raise OptionError(
            f"--max-model-len is {config.max_model_len}, and the model's context is {model.max_position_embeddings}; "
            f"give at most {model.max_position_embeddings}"
        )
    return config.max_model_len


def check_weights_fit(
    architecture: type[CausalLM], model: ModelConfig, *, dtype: torch.dtype, available_bytes: int
) -> None:
    """Refuse weights that are larger than what is free, before any of it is taken.

    Raises:
        OutOfMemoryError: saying by how much.
    """
    shapes_only = architecture(model, num_positions=1, dtype=dtype, device=torch.device("meta"))
    num_bytes = shapes_only.weight_bytes()
    if num_bytes > available_bytes:
        smaller = "take --dtype bfloat16, or a smaller model" if dtype.itemsize > 2 else "or take a smaller model"
        raise OutOfMemoryError(
            f"the weights need {_size(num_bytes)} in {str(dtype).removeprefix('torch.')}, and {_size(available_bytes)} "
            f"of memory are free: {_size(num_bytes - available_bytes)} too little. Free memory, {smaller}"
        )


def plan_memory(
    model: ModelConfig,
    config: EngineConfig,
    scheduler: SchedulerConfig,
    *,
    dtype: torch.dtype,
    available_bytes: int,
    default_ratio: float = CPU_RATIO,
    measured_workspace: int | None = None,
) -> MemoryPlan:
    """Decide on the number of pages.

    `--num-pages` is taken as it is, if it fits. Otherwise the pages take `--memory-ratio` of what is available, leave
    the workspace free, and are never more than all running requests at full length could fill.

    Args:
        model: sizes of the model.
        config: page size, number of pages, ratio, longest request.
        scheduler: how many requests run at once, and how long a step is.
        dtype: of the KV cache.
        available_bytes: free memory of the device, now that the weights are loaded; on a GPU less what everything else
            takes that was measured.
        default_ratio: taken where `--memory-ratio` isn't given.
        measured_workspace: bytes of the largest step, where these were measured and `available_bytes` is without them.

    Raises:
        OptionError: see `wanted_model_len`.
        OutOfMemoryError: the pages don't fit, or hold too little for one request.
    """
    wanted_len = wanted_model_len(model, config)
    page_size = config.page_size
    page_bytes = KVPool.page_bytes(model, page_size=page_size, dtype=dtype)
    ratio = default_ratio if config.memory_ratio is None else config.memory_ratio
    workspace = measured_workspace
    room = max(0, available_bytes)
    if workspace is None:
        workspace = workspace_bytes(model, scheduler, dtype=dtype)
        room = max(0, available_bytes - workspace)
    if config.num_pages is not None:
        num_pages = config.num_pages
        if num_pages * page_bytes > room:
            raise OutOfMemoryError(
                f"--num-pages {num_pages} of {page_bytes} bytes need {_size(num_pages * page_bytes)}, and "
                f"{_size(room)} are free after the weights and {_size(workspace)} of workspace; give at most "
                f"{room // page_bytes}, or leave the option out"
            )
    else:
        num_pages = int(min(max(0, available_bytes) * ratio, room)) // page_bytes
        num_pages = min(num_pages, scheduler.max_running_requests * -(-wanted_len // page_size))
    least = min(wanted_len, LEAST_TOKENS)
    if num_pages * page_size < least:
        needed = -(-least // page_size) * page_bytes
        raise OutOfMemoryError(
            f"{num_pages} pages of KV cache hold {num_pages * page_size} tokens, and a single request needs {least} "
            f"({_size(needed)}: {_size(needed - num_pages * page_bytes)} more); {_size(room)} are free after the "
            f"weights and {_size(workspace)} of workspace. Raise --memory-ratio or --num-pages, lower --page-size or "
            "--max-prefill-length, or free memory"
        )
    dense_bytes = min(num_pages * page_bytes, (room - num_pages * page_bytes) // 2)
    return MemoryPlan(num_pages, min(wanted_len, num_pages * page_size), page_bytes, dense_bytes, workspace)


def workspace_bytes(model: ModelConfig, scheduler: SchedulerConfig, *, dtype: torch.dtype) -> int:
    """An estimate of the activations that are alive at once in the largest step, and its logits."""
    num_tokens = scheduler.max_prefill_length + scheduler.max_running_requests
    attention = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    widest = max(attention, 3 * model.intermediate_size)  # gate and up, and their product
    activations = num_tokens * (2 * model.hidden_size + widest) * dtype.itemsize
    logits = scheduler.max_running_requests * model.vocab_size * (dtype.itemsize + 4)  # and in float32 to sample
    return activations + logits


_AROUND = ("available_before", "available_after", "page")


def parts_of(memory: dict[str, int]) -> dict[str, int]:
    """Of `ExecutorInfo.memory`, the bytes that were taken, by purpose."""
    return {name: num_bytes for name, num_bytes in memory.items() if name not in _AROUND}


def describe_memory(memory: dict[str, int]) -> str:
    """Where memory went, in a line, from `ExecutorInfo.memory`."""
    taken = parts_of(memory)
    parts = ", ".join(f"{name.replace('kv_', 'KV ')} {_size(num_bytes)}" for name, num_bytes in taken.items())
    gone = memory["available_before"] - memory["available_after"]
    return (
        f"memory: {parts}; these are {_size(sum(taken.values()))}, {_size(gone)} are gone, "
        f"{_size(memory['available_after'])} are left"
    )


def _size(num_bytes: int) -> str:
    """`0 bytes`, `12.5 KiB`, `3.0 MiB`, `70.1 GiB`."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(num_bytes) >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} bytes"
