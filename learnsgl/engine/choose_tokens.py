"""Which sampler a device has: operators of torch on a CPU, kernels without a sort on a GPU.

`ModelRunner` calls the one that it was given when it was made. Both choose from the same distribution, with other
noise: the same seed gives another text on a GPU than on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.core import Int32Array
from learnsgl.engine.row_tables import RowTables
from learnsgl.engine.sampler import sample


class Chosen(NamedTuple):
    """The tokens of n rows.

    Attributes:
        tokens: int64 [n], device.
        failed: bool [n], device; rows whose logits allow no token. `None` where such a row has raised an error.
    """

    tokens: torch.Tensor
    failed: torch.Tensor | None


ChooseTokens = Callable[[torch.Tensor, RowTables, Int32Array, npt.NDArray[np.int64]], Chosen]
"""Logits [n, V], the tables, rows [n], positions [n] of the tokens -> the tokens."""


def choose_with_torch(
    logits: torch.Tensor, tables: RowTables, rows: Int32Array, positions: npt.NDArray[np.int64]
) -> Chosen:
    """Operators of torch; a bad row is found at once, which on a GPU would wait for the device.

    Raises:
        EngineError: the logits of a row allow no token.
    """
    return Chosen(sample(logits, tables.sampling(rows, positions)), None)


def choose_with_triton(
    logits: torch.Tensor, tables: RowTables, rows: Int32Array, positions: npt.NDArray[np.int64]
) -> Chosen:
    """The kernels of `kernels/sampling.py`: nothing waits for the device, and no token visits the host."""
    from learnsgl.kernels.sampling import SamplingTensors, sample_tokens  # triton takes a second to import

    parameters = tables.sampling_on_device
    tokens, failed = sample_tokens(
        logits, SamplingTensors(*parameters.tensors), any_filtered=parameters.any_filtered
    )  # fmt: skip
    # A failed row's token may lie outside the vocabulary, and the next step looks it up before the host knows of it.
    return Chosen(tokens.clamp_(max=logits.shape[1] - 1), failed)
