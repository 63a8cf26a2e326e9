"""`learnsgl bench kernels`: each kernel of the GPU engine beside its floor and beside torch's own operators.

The floor comes from the machine itself: what a large copy and a large matrix product reach on it in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
import torch

from learnsgl.bench.kernels_cases import SHAPES, Case, Sizes, make_cases
from learnsgl.bench.kernels_tables import KernelResults, KernelTimes, Timing
from learnsgl.errors import StartupError

Tell = Callable[[str], None]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FLUSH_BYTES = 256 * 1024 * 1024
"""More than any L2 cache holds; written before each timing, so that nothing is found there."""

_COPY_BYTES = 1024 * 1024 * 1024
_MATMUL_SIZE = 8192


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        shapes: names in `SHAPES`.
        dtype: of weights, activations, keys and values.
        page_size: tokens a page.
        repeats: timings of each.
        sizes: `all`, or `few` for a run of seconds.
    """

    shapes: list[str]
    dtype: str
    page_size: int
    repeats: int
    sizes: str


FEW = Sizes(num_tokens=(64,), decodes=((1, 1024), (64, 1024)), prefills=((1, 2048, 0),), num_sampled=(64,))


def measure(settings: Settings, tell: Tell) -> KernelResults:
    """Measure all cases.

    Raises:
        StartupError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise StartupError(
            "learnsgl bench kernels measures a GPU, and PyTorch finds no NVIDIA GPU with a working driver here; "
            "without one the kernels are tested under Triton's interpreter: python -m pytest tests/kernels"
        )
    device, dtype = torch.device("cuda"), _DTYPES[settings.dtype]
    timer = Timer(device, settings.repeats)
    copy_rate, matmul_rate = _copy_rate(timer, device), _matmul_rate(timer, device, dtype)
    tell(f"copy {copy_rate / 1e12:.2f} TB/s, product {matmul_rate / 1e12:.0f} TFLOP/s")
    cases = []
    for name in settings.shapes:
        sizes = FEW if settings.sizes == "few" else Sizes()
        for case in make_cases(SHAPES[name], sizes, settings.page_size, dtype, device):
            cases.append(_measure_case(case, name, timer))
            took = ", ".join(f"{timing.name} {timing.median_us:.1f} µs" for timing in cases[-1].timings)
            tell(f"{name}, {case.kernel}, {case.size}: {took}")
    return KernelResults(torch.cuda.get_device_name(device), copy_rate, matmul_rate, cases)


def _measure_case(case: Case, shape: str, timer: Timer) -> KernelTimes:
    ways = dict(case.ways)
    if case.compiles:
        ways["torch, compiled"] = torch.compile(case.ways["torch"])
    timings = []
    for name, compute in ways.items():
        times = timer.times_us(compute)
        timings.append(Timing(name, statistics.median(times), min(times), max(times)))
    torch._dynamo.reset()  # what was compiled for one case would be compiled anew, for any size, by the next
    return KernelTimes(case.kernel, shape, case.size, case.num_bytes, case.num_flops, timings)


class Timer:
    """Times work on the device alone: a CUDA graph between two events, the L2 cache cold, nothing of the host in it."""

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


def _copy_rate(timer: Timer, device: torch.device) -> float:
    """Bytes a second, read and written."""
    source = torch.zeros(_COPY_BYTES, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / (statistics.median(timer.times_us(lambda: target.copy_(source))) / 1e6)


def _matmul_rate(timer: Timer, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second."""
    a, b = torch.randn(2, _MATMUL_SIZE, _MATMUL_SIZE, dtype=dtype, device=device)
    return 2 * _MATMUL_SIZE**3 / (statistics.median(timer.times_us(lambda: a @ b)) / 1e6)
