"""Whether Triton can build and run a kernel here, asked before gigabytes of weights are read.

`loading.py` calls `check_triton` on a GPU. Triton builds launchers with the machine's C compiler and keeps them
in a folder; without one or the other it fails in the middle of a model, far from the reason.
"""

from __future__ import annotations

import sys

import torch

from learnsgl.errors import StartupError


def check_triton(device: torch.device) -> None:
    """Run the smallest kernel there is.

    Raises:
        StartupError: it can't be built or run; with the reason, and what is usually missing.
    """
    try:
        from learnsgl.kernels.silu_mul import silu_and_mul  # triton takes a second to import

        silu_and_mul(torch.zeros(1, 32, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise StartupError(
            f"Triton can't build its kernels for {device} ({said}). It needs a C compiler, Python's headers (apt "
            f"install gcc {python}-dev), and a folder to write to (TRITON_CACHE_DIR, or ~/.triton); `learnsgl doctor` "
            "looks for them. To do without, add --device cpu"
        ) from error
