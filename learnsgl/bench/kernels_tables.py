"""What `learnsgl bench kernels` measures, as plain data, and its tables."""

from __future__ import annotations

import msgspec

from learnsgl.bench.stats import Spread
from learnsgl.bench.tables import Table


class Timing(msgspec.Struct, frozen=True):
    """One way of computing a case.

    Attributes:
        name: `learnsgl`, or which of torch's own.
        median_us, low_us, high_us: time on the device, over the repeats.
    """

    name: str
    median_us: float
    low_us: float
    high_us: float


class KernelTimes(msgspec.Struct, frozen=True):
    """One kernel on one size.

    Attributes:
        kernel: which.
        shape: name of the model's shape.
        size: tokens, contexts and the like, in words.
        num_bytes: what must be moved.
        num_flops: what must be computed by the matrix units; 0 where they aren't used.
        timings: learnsgl's first.
    """

    kernel: str
    shape: str
    size: str
    num_bytes: int
    num_flops: int
    timings: list[Timing]


class KernelResults(msgspec.Struct, frozen=True):
    """All of them, and what they are measured by.

    Attributes:
        gpu: its name.
        copy_bytes_per_s: bytes read and written by a large copy.
        matmul_flops_per_s: of a large product.
    """

    gpu: str
    copy_bytes_per_s: float
    matmul_flops_per_s: float
    cases: list[KernelTimes]


KERNEL_HEADS = ("shape", "size", "by", "µs", "floor, µs", "of the floor's rate", "GB/s", "TFLOP/s")
KERNELS = ("rms-norm", "silu-mul", "rotary-store", "decode-attention", "prefill-attention", "sampling")
"""Each has a table of its own."""


def floor_us(case: KernelTimes, results: KernelResults) -> float:
    """The least time: at the rate of a large copy, or of a large product where that takes longer."""
    moving_s = case.num_bytes / results.copy_bytes_per_s
    return 1e6 * max(moving_s, case.num_flops / results.matmul_flops_per_s)


def kernels_tables(results: KernelResults) -> list[Table]:
    """One table for each kernel."""
    copy, matmul = results.copy_bytes_per_s / 1e12, results.matmul_flops_per_s / 1e12
    note = (
        f"{results.gpu}. The floor is the time for the bytes that must be moved at {copy:.2f} TB/s (a large copy), or "
        f"for the operations at {matmul:.0f} TFLOP/s (a large product) where that is longer. Times are of CUDA graphs "
        "with a cold L2 cache: medians, and the least and greatest."
    )
    tables = []
    for kernel in dict.fromkeys(case.kernel for case in results.cases):
        cases = [case for case in results.cases if case.kernel == kernel]
        rows = [row for case in cases for row in _rows(case, results)]
        tables.append(Table(f"kernels-{kernel}", KERNEL_HEADS, rows, note))
        note = ""
    return tables


def _rows(case: KernelTimes, results: KernelResults) -> list[list[str]]:
    floor, rows = floor_us(case, results), []
    for timing in case.timings:
        taken = Spread(timing.median_us, timing.low_us, timing.high_us)
        rows.append([
            case.shape, case.size, timing.name, taken.text(1), f"{floor:,.1f}", f"{floor / taken.median:.0%}",
            f"{case.num_bytes / taken.median / 1e3:,.0f}",
            f"{case.num_flops / taken.median / 1e6:,.1f}" if case.num_flops else "",
        ])  # fmt: skip
    return rows
