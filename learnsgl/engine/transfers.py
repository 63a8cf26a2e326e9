"""The ways between host and device: small arrays go up before a step, sampled tokens come down after it.

`RowTables`, the samplers and the log-probabilities are written against `Transfers`. On a CPU both sides are the same
memory. On a GPU nothing here ever waits for the device: arrays travel from and to pinned memory, on two streams beside
the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]

ALIGNMENT = 16
"""Bytes; arrays that travel together begin at multiples of it, as kernels assume of their arguments."""


LEAST_PINNED = 1 << 14
"""Bytes; PyTorch keeps pinned memory by powers of two, and pinning more stops the device. So small arrays share one."""


class Transfers(Protocol):
    """How arrays get to the device and tensors back."""

    def upload(self, *arrays: Array) -> list[torch.Tensor]:
        """Copy host arrays of any dtypes and shapes to the device; on the current stream they are there when used."""
        ...

    def download(self, tensor: torch.Tensor) -> Array:
        """A device tensor on the host. On a GPU its values are there once `CudaTransfers.downloaded` has happened."""
        ...


class HostTransfers:
    """Host and device are the same (`Transfers`)."""

    def upload(self, *arrays: Array) -> list[torch.Tensor]:
        """See `Transfers.upload`."""
        # Copies: arrays decoded from a message are read-only, and PyTorch has no such tensors.
        return [torch.tensor(array) for array in arrays]

    def download(self, tensor: torch.Tensor) -> Array:
        """See `Transfers.download`."""
        return tensor.numpy()


HOST = HostTransfers()


class CudaTransfers:
    """Pinned memory and two streams beside the engine's own (`Transfers`).

    Uploads have a stream of their own, so that the inputs of step N+1 arrive while step N computes. Downloads have
    another one: on the same they would hold up the next upload until the step has been sampled. Pinned and device
    memory comes from PyTorch's caching allocators, which give a block away again only when the streams that used it are
    done.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        """Serve the engine's `stream`, which is the current one whenever a method is called."""
        self._device = device
        self._stream = stream
        self._up = torch.cuda.Stream(device)
        self._down = torch.cuda.Stream(device)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []  # to be downloaded, and where to

    def upload(self, *arrays: Array) -> list[torch.Tensor]:
        """See `Transfers.upload`; all arrays travel in one copy."""
        offsets, total = lay_out([array.nbytes for array in arrays])
        pinned = _pinned(total)
        fill(pinned.numpy(), arrays, offsets)
        with torch.cuda.stream(self._up):
            received = torch.empty(total, dtype=torch.uint8, device=self._device)
            received.copy_(pinned, non_blocking=True)
        self._stream.wait_stream(self._up)
        received.record_stream(self._stream)  # it belongs to the other stream's allocations
        return views(received, arrays, offsets)

    def download(self, tensor: torch.Tensor) -> Array:
        """See `Transfers.download`; the copy is queued by `downloaded`, together with the step's others."""
        pinned = _pinned(tensor.nbytes).view(tensor.dtype).view(tensor.shape)
        self._waiting.append((tensor.contiguous(), pinned))
        return pinned.numpy()

    def downloaded(self) -> torch.cuda.Event:
        """Queue the downloads; an event that happens when they and all work of the engine's stream so far are done."""
        self._down.wait_stream(self._stream)
        with torch.cuda.stream(self._down):
            for tensor, pinned in self._waiting:
                pinned.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._down)
        self._waiting.clear()
        event = torch.cuda.Event()
        event.record(self._down)
        return event


def _pinned(num_bytes: int) -> torch.Tensor:
    """So many pinned bytes, uint8 [num_bytes]."""
    return torch.empty(max(num_bytes, LEAST_PINNED), dtype=torch.uint8, pin_memory=True)[:num_bytes]


def lay_out(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where parts of these sizes begin in a buffer that holds them all, and how long it is; all in bytes."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end


def fill(buffer: npt.NDArray[np.uint8], arrays: Sequence[Array], offsets: Sequence[int]) -> None:
    """Write arrays into a buffer of bytes, where `lay_out` says."""
    for array, offset in zip(arrays, offsets, strict=True):
        place = buffer[offset : offset + array.nbytes].view(array.dtype)
        place[...] = array.reshape(-1)


def views(buffer: torch.Tensor, arrays: Sequence[Array], offsets: Sequence[int]) -> list[torch.Tensor]:
    """The parts of a buffer of bytes, with the dtypes and shapes of the arrays that were written into it."""
    return [
        buffer[offset : offset + array.nbytes].view(_DTYPES[array.dtype]).view(array.shape)
        for array, offset in zip(arrays, offsets, strict=True)
    ]


_DTYPES = {
    np.dtype(np.bool_): torch.bool,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
