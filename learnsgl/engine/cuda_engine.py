"""The executor on an NVIDIA GPU: every call queues work on the engine's stream and returns; only `collect` waits.

`create_engine` makes one where the device is a GPU. The thread that submits launches the kernels itself: launching
takes less than a switch to another thread would, and with CUDA graphs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from learnsgl.engine.device_clock import OLD_NS, TOO_OLD_NS, Anchor, DeviceClock, TimingEvent, within
from learnsgl.engine.model_runner import ModelRunner, Sampled
from learnsgl.errors import EngineError
from learnsgl.scheduler.executor import ExecutorInfo, Masks, Step, StepResult, Ticket


class StepEvents(NamedTuple):
    """The four moments of a step on the engine's stream."""

    forward_start: TimingEvent
    forward_end: TimingEvent
    sample_start: TimingEvent
    sample_end: TimingEvent


class DoneEvent(Protocol):
    """Happens when a step's results are on the host; a `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether it has happened."""
        ...

    def synchronize(self) -> None:
        """Wait until it has."""
        ...


class Device(Protocol):
    """What the engine needs of CUDA beside the operators themselves: a seam, so that tests do without a GPU."""

    stream: Any
    """The engine's stream."""
    clock: DeviceClock

    def current(self) -> Any:
        """A context manager in which the engine's stream is the current one."""
        ...

    def make_event(self) -> TimingEvent:
        """A new event with timing."""
        ...

    def downloaded(self) -> DoneEvent:
        """An event that happens when all results so far are on the host."""
        ...

    def finish(self) -> None:
        """Wait for everything, and give memory back."""
        ...


@dataclass(slots=True, eq=False)
class CudaTicket:
    """A step that was queued, until it is collected (`Ticket`).

    Attributes:
        step: what was submitted.
        events: its moments on the device.
        anchor: of the device's clock when the step was launched, so that its events come after it.
        launch_ns: the host's clock just before the first kernel of the forward pass was queued.
        graph_size: of the CUDA graph that was replayed.
        logits: on the device.
        sampled: what comes of the step; its arrays have their values when `done` has happened.
        done: `None` until the sampling is queued.
    """

    step: Step
    events: StepEvents
    anchor: Anchor
    launch_ns: int
    graph_size: int | None
    logits: torch.Tensor | None
    sampled: Sampled | None = None
    done: DoneEvent | None = None

    @property
    def number(self) -> int:
        """The step's number."""
        return self.step.number


class CudaEngine:
    """Runs steps on a GPU in the order they are submitted (`Executor`).

    Step N must be sampled before step N+1 is submitted, since that reads its tokens on the device; it needn't be
    collected. Neither `submit` nor `sample` ever waits for the device.
    """

    def __init__(self, runner: ModelRunner, info: ExecutorInfo, device: Device) -> None:
        """Take over what is loaded. `create_engine` is the usual way to an engine."""
        self._runner: ModelRunner | None = runner
        self._info = info
        self._device = device
        self._free_events: list[StepEvents] = []
        self._failure: BaseException | None = None
        self._last: CudaTicket | None = None  # submitted last
        self._num_collected = 0

    @property
    def info(self) -> ExecutorInfo:
        """Sizes and names."""
        return self._info

    def submit(self, step: Step) -> CudaTicket:
        """Queue the forward pass of `step`.

        Raises:
            EngineError: the engine is closed or has failed, the step is out of order, or it can't be run.
        """
        last_number = 0 if self._last is None else self._last.number
        if step.number != last_number + 1:
            raise EngineError(f"step {step.number} was submitted after step {last_number}; steps count up by one")
        if self._last is not None and self._last.done is None:
            raise EngineError(f"step {step.number} was submitted before the sampling of step {last_number} was queued")
        with self._working(f"step {step.number}") as runner:
            self._device.clock.renew(older_than_ns=TOO_OLD_NS)
            inputs = runner.prepare(step)
            batch = runner.plan(step, inputs)
            events = self._take_events()
            # After the small kernels that prepare the step: where the device waits for the host to launch these, that
            # is time between two steps, and not of the forward pass.
            launch_ns = time.monotonic_ns()
            events.forward_start.record(self._device.stream)
            logits = runner.run(step, batch)
            events.forward_end.record(self._device.stream)
            anchor = self._device.clock.anchor
            self._last = CudaTicket(step, events, anchor, launch_ns, runner.graph_size, logits)
        return self._last

    def sample(self, ticket: Ticket, masks: Masks | None) -> None:
        """Queue the sampling of a submitted step, and the way of its tokens to the host.

        Raises:
            EngineError: the engine is closed or has failed, or the step isn't waiting for its sampling.
        """
        mine = _mine(ticket)
        if mine.done is not None:
            raise EngineError(f"the sampling of step {mine.number} was queued already")
        with self._working(f"the sampling of step {mine.number}") as runner:
            mine.events.sample_start.record(self._device.stream)
            mine.sampled = runner.sample_batch(mine.step, mine.logits, masks)
            mine.events.sample_end.record(self._device.stream)
            mine.done = self._device.downloaded()
        mine.logits = None

    def collect(self, ticket: Ticket) -> StepResult:
        """Wait until the step's sampled tokens are on the host.

        Raises:
            EngineError: the device failed (that is its cause), a row's logits allow no token, or the ticket is out of
                order.
        """
        mine = _mine(ticket)
        if mine.number != self._num_collected + 1:
            raise EngineError(f"step {mine.number} was collected after step {self._num_collected}; keep their order")
        if mine.done is None or mine.sampled is None:
            raise EngineError(f"step {mine.number} was collected before its sampling was queued")
        with self._watched(f"step {mine.number}"):
            if not mine.done.query():
                self._device.clock.renew(older_than_ns=OLD_NS)  # while there is nothing better to do
            mine.done.synchronize()
            observed_ns = time.monotonic_ns()
            times_ns, uncertainty_ns = _on_host_clock(mine, observed_ns)
        self._free_events.append(mine.events)
        self._num_collected = mine.number
        return self._result(mine, mine.sampled, times_ns, uncertainty_ns)

    def close(self) -> None:
        """Finish what is queued and give the memory back; safe to call twice, and after a failure.

        Raises:
            EngineError: the device failed while it finished, and nobody has been told of a failure yet.
        """
        if self._runner is None:
            return
        self._runner = None
        self._free_events.clear()
        if self._last is not None:
            self._last.logits = None
        try:
            self._device.finish()
        except Exception as error:
            # After a fault in a kernel every call of CUDA fails, and its memory goes with the process.
            if self._failure is None:
                raise EngineError(f"closing the engine failed on the device: {_described(error)}") from error

    def _result(self, mine: CudaTicket, sampled: Sampled, times_ns: list[int], uncertainty_ns: int) -> StepResult:
        if sampled.failed is not None and sampled.failed.any():
            row = int(sampled.failed.argmax())
            error = EngineError(
                f"step {mine.number}: the logits of row {row} of {len(sampled.failed)} hold a NaN or allow no token; "
                "the weights or the mask are broken"
            )
            self._failure = error
            raise error
        forward_start_ns, forward_end_ns, sample_start_ns, sample_end_ns = times_ns
        return StepResult(
            number=mine.number,
            tokens=sampled.tokens,
            forward_start_ns=forward_start_ns,
            forward_end_ns=forward_end_ns,
            sample_start_ns=sample_start_ns,
            sample_end_ns=sample_end_ns,
            logprobs=sampled.logprobs,
            logprob_places=sampled.logprob_places,
            prompt_logprobs=sampled.prompt_logprobs,
            launch_ns=mine.launch_ns,
            uncertainty_ns=uncertainty_ns,
            graph_size=mine.graph_size,
            anchors=self._device.clock.take_unrecorded(),
        )

    def _take_events(self) -> StepEvents:
        """Events of a step that was collected, or new ones: as many as there are steps in flight."""
        if self._free_events:
            return self._free_events.pop()
        make: Callable[[], TimingEvent] = self._device.make_event
        return StepEvents(make(), make(), make(), make())

    @contextmanager
    def _working(self, what: str) -> Iterator[ModelRunner]:
        """Work is queued on the engine's stream."""
        if self._runner is None:
            raise EngineError("the engine is closed")
        with self._watched(what):
            yield self._runner

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """Something is asked of the device. Once it has failed, the engine is of no more use."""
        if self._failure is not None:
            raise EngineError(f"the engine has failed and can't go on: {_described(self._failure)}") from self._failure
        try:
            with torch.inference_mode(), self._device.current():
                yield
        except Exception as error:
            self._failure = error
            raise EngineError(f"{what} failed on the device: {_described(error)}") from error


def _on_host_clock(ticket: CudaTicket, observed_ns: int) -> tuple[list[int], int]:
    """The four moments of a step that is done, on the host's clock, and how far off they may be."""
    mapped = [ticket.anchor.to_host(ticket.anchor.event.elapsed_time(event)) for event in ticket.events]
    uncertainty_ns = max(uncertainty for _, uncertainty in mapped)
    times_ns = [ns for ns, _ in mapped]
    return within(
        times_ns, uncertainty_ns=uncertainty_ns, launch_ns=ticket.launch_ns, observed_ns=observed_ns
    ), uncertainty_ns  # fmt: skip


def _mine(ticket: Ticket) -> CudaTicket:
    if not isinstance(ticket, CudaTicket):
        raise EngineError(f"{ticket!r} isn't a ticket of this engine")
    return ticket


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
