"""A kernel with its grid and arguments: what is about to run, as a value that can be run, compiled or looked at.

The functions of this room make launches; the engine runs them, and the compile tests turn the very same ones into
machine code for GPUs that the machine doesn't have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch.

    Attributes:
        kernel: a function under `triton.jit`.
        grid: programs along three axes; only the first may be above 65,535. With a 0 there is nothing to do.
        args: every argument by name, constants among them.
        num_warps: warps (of 32 threads) of one program.
        num_stages: of Triton's software pipeline; 1 where there is no loop to pipeline.
    """

    kernel: Any
    grid: tuple[int, int, int]
    args: dict[str, Any]
    num_warps: int
    num_stages: int = 1

    def run(self) -> None:
        """Queue it on the current stream; an empty grid is left out, since CUDA refuses one."""
        if 0 not in self.grid:
            # Products and sums may be fused: said here because the default is another from Triton 3.10 on.
            self.kernel[self.grid](
                **self.args, num_warps=self.num_warps, num_stages=self.num_stages, enable_fp_fusion=True
            )


def power_of_2(number: int, *, at_least: int = 1) -> int:
    """The smallest power of two that is neither below `number` nor below `at_least`, itself a power of two."""
    return max(at_least, 1 << max(number - 1, 0).bit_length())


def check_rows(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor whose last axis isn't dense, since kernels read rows as they lie.

    Raises:
        ValueError: it isn't dense.
    """
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} has strides {tensor.stride()}; its last axis must be dense (stride 1)")
