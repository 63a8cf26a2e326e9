"""CUDA as `CudaEngine` uses it: the engine's stream, the clock's idle one, events, and memory given back at the end.

`loading.py` makes one before the weights are loaded. The engine knows it as a `Device`.
"""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager

import torch

from learnsgl.engine.cuda_engine import DoneEvent
from learnsgl.engine.device_clock import DeviceClock, TimingEvent
from learnsgl.engine.transfers import CudaTransfers


class CudaDevice:
    """A GPU (`Device`).

    Attributes:
        stream: the engine's stream; all kernels run on it.
        transfers: the ways between host and device.
        clock: the device's clock, beside the host's.
    """

    def __init__(self, device: torch.device) -> None:
        """Make the streams, and compare the clocks for the first time."""
        self._device = device
        self.stream = torch.cuda.Stream(device)
        self.transfers = CudaTransfers(device, self.stream)
        with torch.cuda.device(device):
            self.clock = DeviceClock(self.make_event, torch.cuda.Stream(device))

    def current(self) -> AbstractContextManager[None]:
        """See `Device.current`."""
        return torch.cuda.stream(self.stream)

    def make_event(self) -> TimingEvent:
        """See `Device.make_event`."""
        return torch.cuda.Event(enable_timing=True)

    def downloaded(self) -> DoneEvent:
        """See `Device.downloaded`."""
        return self.transfers.downloaded()

    def finish(self) -> None:
        """See `Device.finish`."""
        torch.cuda.synchronize(self._device)
        gc.collect()  # a graph and its buffers may know each other
        torch.cuda.empty_cache()
