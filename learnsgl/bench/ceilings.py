"""What a device reaches at its best: a large copy and a large matrix product, timed in the run that they belong to.

`bench kernels`, `bench steps` and `bench offline` set their figures beside these. Whoever shares the device with an
engine asks `measure_in_process`, whose memory is free again when it returns.
"""

from __future__ import annotations

import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec

from learnsgl.bench.sizes import CPU, Ceilings
from learnsgl.errors import LearnsglError, ServingError

REPEATS = 20
END_WAIT_S = 120.0
_GPU_COPY_BYTES, _CPU_COPY_BYTES = 1 << 30, 128 << 20
_GPU_MATMUL, _CPU_MATMUL = 8192, 1024


class _Answer(msgspec.Struct):
    ceilings: Ceilings | None = None
    error: str = ""


def measure_in_process(device: str, dtype: str) -> Ceilings:
    """Measure in a process of its own.

    Args:
        device: auto, cpu or cuda.
        dtype: of the matrices: float32, bfloat16 or float16.

    Raises:
        ServingError: it failed there.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(device, dtype, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer = msgspec.msgpack.decode(mine.recv_bytes(), type=_Answer)
    except EOFError:
        answer = _Answer(error="its process ended without an answer")
    process.join(END_WAIT_S)
    if answer.ceilings is None:
        raise ServingError(f"the bandwidth and the rate of the device could not be measured: {answer.error}")
    return answer.ceilings


def _answer(device: str, dtype: str, connection: Connection) -> None:
    try:
        answer = _Answer(measure_ceilings(device, dtype))
    except (LearnsglError, RuntimeError) as error:  # what torch raises, too little memory among it
        answer = _Answer(error=f"{type(error).__name__}: {error}")
    connection.send_bytes(msgspec.msgpack.encode(answer))


def measure_ceilings(device: str, dtype: str, *, repeats: int = REPEATS) -> Ceilings:
    """Measure in this process.

    On a GPU, each copy and each product lies between two events, as a CUDA graph, with a cold L2 cache; on a CPU, the
    clock is read around it. Copied and multiplied are random numbers: zeros can be faster than anything real.

    Args:
        device: auto, cpu or cuda.
        dtype: of the matrices.
        repeats: of each; the median counts.
    """
    import torch

    from learnsgl.bench.timer import Timer

    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    where = torch.device("cuda" if on_gpu else "cpu")
    copy_bytes, size = (_GPU_COPY_BYTES, _GPU_MATMUL) if on_gpu else (_CPU_COPY_BYTES, _CPU_MATMUL)
    times_us = Timer(where, repeats).times_us if on_gpu else functools.partial(_host_times_us, repeats=repeats)
    source, target = torch.randint(-128, 128, (2, copy_bytes), dtype=torch.int8, device=where)
    copy_us = statistics.median(times_us(lambda: target.copy_(source)))
    a, b = torch.randn(2, size, size, device=where).to(getattr(torch, dtype))
    matmul_us = statistics.median(times_us(lambda: a @ b))
    return Ceilings(
        device=torch.cuda.get_device_name(where) if on_gpu else CPU,
        copy_bytes_per_s=2 * copy_bytes / copy_us * 1e6,
        copy_bytes=copy_bytes,
        matmul_flops_per_s=2 * size**3 / matmul_us * 1e6,
        matmul_size=size,
        dtype=dtype,
    )


def _host_times_us(compute: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats + 1):
        start_ns = time.perf_counter_ns()
        compute()
        times.append((time.perf_counter_ns() - start_ns) / 1e3)
    return times[1:]
