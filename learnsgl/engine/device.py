"""Which device and dtype the engine runs with, and how many threads; what else depends on the device is here too.

`create_engine` asks once, at start-up. Everything after it is written against `torch.device` and runs on either.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.errors import OptionError, StartupError
from learnsgl.models.int8 import Int8Quantizer
from learnsgl.models.layers import LinearLayer
from learnsgl.models.packed import can_pack, pack


@dataclass(frozen=True, slots=True)
class Conversion:
    """Puts another form in the place of each linear layer of a loaded model.

    Attributes:
        phase: what this part of the start-up is called.
        convert: does it for one layer.
    """

    phase: str
    convert: Callable[[LinearLayer], LinearLayer]


@dataclass(frozen=True, slots=True)
class StepSize:
    """How much a step holds where the options don't say.

    Attributes:
        num_rows: requests that run at once.
        num_prompt_tokens: most prompt tokens.
    """

    num_rows: int
    num_prompt_tokens: int


ON_CPU = StepSize(64, 512)
"""A core computes a longer step no faster by the token, and all others wait for it."""
ON_GPU = StepSize(256, 2048)
"""Enough tokens to be bound by arithmetic, and enough rows to share the reading of the weights among."""
BFLOAT16_CAPABILITY = (8, 0)
"""The first GPUs that compute in bfloat16, Ampere's."""

_log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CGROUP = Path("/sys/fs/cgroup")  # version 2, where a container's limits stand; nothing depends on its being there


def choose_step_size(config: SchedulerConfig, device: torch.device) -> SchedulerConfig:
    """The options, with how much a step holds filled in where they leave it open."""
    size = ON_GPU if device.type == "cuda" else ON_CPU
    return replace(
        config,
        max_running_requests=config.max_running_requests or size.num_rows,
        max_prefill_length=config.max_prefill_length or size.num_prompt_tokens,
    )


def choose_device(config: EngineConfig) -> torch.device:
    """The device that `--device` asks for; `auto` takes a CUDA device where one can be used.

    A GPU that is there and can't be used is no secret: with `auto` it is logged why the CPU runs instead.

    Raises:
        StartupError: cuda was asked for and can't be used; the message says why.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    reason = _why_no_cuda()
    if reason is None:
        return torch.device("cuda", torch.cuda.current_device())
    if config.device == "cuda":
        raise StartupError(f"--device cuda can't be used: {reason}; use --device cpu or auto")
    if torch.cuda.is_available():
        _log.warning("the GPU can't be used, so the CPU is: %s", reason)
    return torch.device("cpu")


def _why_no_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"this build of PyTorch ({torch.__version__}) has no CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no NVIDIA GPU with a working driver"
    try:
        torch.zeros(1, device="cuda").add_(1).item()  # a GPU may be there, and be too old for this build's kernels
    except (RuntimeError, AssertionError) as error:
        return f"a first kernel failed ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return None


def choose_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """The dtype that `--dtype` asks for; `auto` is float32 on a CPU and bfloat16 on a GPU.

    GPUs before Ampere have no bfloat16 and compute it by detours, if at all: there `auto` is float16.

    Raises:
        OptionError: bfloat16 was asked for on such a GPU.
    """
    has_bfloat16 = device.type == "cpu" or torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    if config.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16 if has_bfloat16 else torch.float16
    if config.dtype == "bfloat16" and not has_bfloat16:
        raise OptionError(
            f"--dtype bfloat16 needs a GPU of compute capability {BFLOAT16_CAPABILITY[0]}.0, and "
            f"{torch.cuda.get_device_name(device)} has {'.'.join(map(str, torch.cuda.get_device_capability(device)))}; "
            "take --dtype float16 (or auto), or --dtype float32"
        )
    return _DTYPES[config.dtype]


def choose_conversion(config: EngineConfig, device: torch.device, dtype: torch.dtype) -> Conversion | None:
    """What becomes of linear layers once they are loaded: what `--quantization` asks for, or what is fastest here.

    Returns:
        `None` where they stay as they are.

    Raises:
        OptionError: the quantisation doesn't go with the device or the dtype.
        StartupError: this PyTorch or this processor can't do it.
    """
    if config.quantization == "none":
        return Conversion("pack_weights", pack) if can_pack(device, dtype) else None
    if device.type != "cpu":
        raise OptionError(
            f"--quantization {config.quantization} is built for the CPU, and the device is {device}; "
            "add --device cpu, or leave --quantization out"
        )
    if dtype != torch.float32:
        raise OptionError(
            f"--quantization {config.quantization} goes with --dtype float32 (or auto), and not with "
            f"{dtype_name(dtype)}; leave one of the two out"
        )
    return Conversion("quantize_weights", Int8Quantizer())


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def choose_num_threads(config: EngineConfig) -> int:
    """CPU threads of the engine: `--num-threads`, or the cores that this process may really use.

    PyTorch's own default is the machine's physical cores (or OMP_NUM_THREADS); a container's share may be less, and
    more threads than cores make every operator wait for the slowest.
    """
    if config.num_threads is not None:
        return config.num_threads
    usable = torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):
        usable = min(usable, len(os.sched_getaffinity(0)))
    quota = _read_cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        usable = min(usable, max(1, int(quota[0]) // int(quota[1])))
    return usable


def describe(device: torch.device, num_threads: int) -> str:
    """For people: `cpu (2 threads)`, `cuda:0 NVIDIA H100`."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"cpu ({num_threads} thread{'s' if num_threads > 1 else ''})"


def available_bytes(device: torch.device) -> int:
    """Memory of the device that can still be taken; in a container, what its limit leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    limit, used = _read_cgroup("memory.max").strip(), _read_cgroup("memory.current").strip()
    if limit.isdigit() and used.isdigit():
        available = min(available, max(0, int(limit) - int(used)))
    return available


def wait_for(device: torch.device) -> None:
    """Return once the device has done all that was queued, so that the clock can be read; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read_cgroup(name: str) -> str:
    """A file of the container's limits, or nothing where the system has none."""
    path = _CGROUP / name
    return path.read_text(encoding="ascii") if path.is_file() else ""
