"""`learnsgl bench kernels`: each kernel of the GPU engine beside its floor and beside torch's own operators.

The floor comes from the machine itself: what a large copy and a large matrix product reach on it in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec
import torch

from learnsgl.bench.ceilings import measure_ceilings
from learnsgl.bench.kernels_cases import make_cases
from learnsgl.bench.kernels_data import SHAPES, Case, Sizes
from learnsgl.bench.kernels_tables import KernelResults, KernelTimes, Timing
from learnsgl.bench.timer import Timer
from learnsgl.errors import StartupError

Tell = Callable[[str], None]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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


FEW = Sizes(
    num_tokens=(64,), decodes=((1, 1024), (64, 1024)), prefills=((1, 2048, 0),), num_sampled=(64,), num_few=(1,)
)


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
    ceilings = measure_ceilings("cuda", settings.dtype)
    timer = Timer(device, settings.repeats)
    tell(ceilings.text())
    cases = []
    for name in settings.shapes:
        sizes = FEW if settings.sizes == "few" else Sizes()
        for case in make_cases(SHAPES[name], sizes, settings.page_size, dtype, device):
            cases.append(_measure_case(case, name, timer))
            took = ", ".join(f"{timing.name} {timing.median_us:.1f} µs" for timing in cases[-1].timings)
            tell(f"{name}, {case.kernel}, {case.size}: {took}")
    return KernelResults(ceilings.device, ceilings.copy_bytes_per_s, ceilings.matmul_flops_per_s, cases)


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
