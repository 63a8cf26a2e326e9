"""The executor that runs the real model: one compute thread, to which forward passes and samplings are queued.

The scheduler's process makes one with `create_engine` and then knows it as an `Executor`. Only the compute thread
touches the device; the thread that submits goes on scheduling meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine import SHORT_WAITS
from learnsgl.engine.cuda_engine import CudaEngine
from learnsgl.engine.device import choose_device
from learnsgl.engine.loading import Loaded, load_model_runner
from learnsgl.engine.model_runner import ModelRunner, Sampled
from learnsgl.errors import EngineError
from learnsgl.scheduler.executor import ExecutorInfo, Masks, Step, StepResult, Ticket

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timed(Generic[_T]):
    """What a task on the compute thread gave, and when it ran, on `time.monotonic_ns`."""

    value: _T
    start_ns: int
    end_ns: int


@dataclass(slots=True, eq=False)
class StepTicket:
    """A step that is queued or has run, until it is collected (`Ticket`).

    Attributes:
        step: what was submitted.
        forward: its logits on the device, once they are there.
        sampling: its tokens on the host, once they are there; `None` until `Engine.sample` queues the sampling.
    """

    step: Step
    forward: Future[Timed[torch.Tensor | None]]
    sampling: Future[Timed[Sampled]] | None = None

    @property
    def number(self) -> int:
        """The step's number."""
        return self.step.number


class Engine:
    """Runs steps on the device in the order they are submitted (`Executor`).

    A step's forward pass reads the tokens that earlier steps sampled, so step N must be sampled before step N+1 is
    submitted; it needn't be collected.
    """

    def __init__(self, loaded: Loaded, thread: ThreadPoolExecutor) -> None:
        """Take over what is loaded, and the compute thread. `create_engine` is the usual way to an engine."""
        self._info = loaded.info
        self._runner: ModelRunner | None = loaded.runner
        self._thread = thread
        self._failure: BaseException | None = None
        self._last: StepTicket | None = None  # submitted last
        self._num_collected = 0

    @property
    def info(self) -> ExecutorInfo:
        """Sizes and names."""
        return self._info

    def submit(self, step: Step) -> StepTicket:
        """Queue the forward pass of `step` and return at once.

        Raises:
            EngineError: the engine is closed or has failed, or the step is out of order.
        """
        last_number = 0 if self._last is None else self._last.number
        if step.number != last_number + 1:
            raise EngineError(f"step {step.number} was submitted after step {last_number}; steps count up by one")
        if self._last is not None and self._last.sampling is None:
            raise EngineError(f"step {step.number} was submitted before the sampling of step {last_number} was queued")
        self._last = StepTicket(step, self._queue(lambda: self.forward_batch(step)))
        return self._last

    def sample(self, ticket: Ticket, masks: Masks | None) -> None:
        """Queue the sampling of a submitted step and return at once.

        Raises:
            EngineError: the engine is closed or has failed, or the step isn't waiting for its sampling.
        """
        mine = _mine(ticket)
        if mine.sampling is not None:
            raise EngineError(f"the sampling of step {mine.number} was queued already")
        mine.sampling = self._queue(lambda: self._sample_batch(mine, masks))

    def collect(self, ticket: Ticket) -> StepResult:
        """Wait until the step's sampled tokens are on the host.

        Raises:
            EngineError: the forward pass or the sampling failed (that is its cause), or the ticket is out of order.
        """
        mine = _mine(ticket)
        if mine.number != self._num_collected + 1:
            raise EngineError(f"step {mine.number} was collected after step {self._num_collected}; keep their order")
        if mine.sampling is None:
            raise EngineError(f"step {mine.number} was collected before its sampling was queued")
        try:
            forward, sampling = mine.forward.result(), mine.sampling.result()
        except Exception as error:
            raise EngineError(f"step {mine.number} failed on the device: {_described(error)}") from error
        self._num_collected = mine.number
        return StepResult(
            number=mine.number,
            tokens=sampling.value.tokens,
            forward_start_ns=forward.start_ns,
            forward_end_ns=forward.end_ns,
            sample_start_ns=sampling.start_ns,
            sample_end_ns=sampling.end_ns,
            logprobs=sampling.value.logprobs,
            logprob_places=sampling.value.logprob_places,
            prompt_logprobs=sampling.value.prompt_logprobs,
        )

    def close(self) -> None:
        """Finish what is queued, end the compute thread and give the memory back; safe to call twice."""
        self._thread.shutdown(wait=True)
        self._runner = None

    def forward_batch(self, step: Step) -> torch.Tensor | None:
        """Run the forward pass of one step, on the compute thread.

        Returns:
            Logits [number of wanted tokens, V] on the device; `None` when the step wants none.
        """
        assert self._runner is not None
        return self._runner.forward_batch(step)

    def _sample_batch(self, ticket: StepTicket, masks: Masks | None) -> Sampled:
        assert self._runner is not None
        return self._runner.sample_batch(ticket.step, ticket.forward.result().value, masks)

    def _queue(self, work: Callable[[], _T]) -> Future[Timed[_T]]:
        if self._runner is None:
            raise EngineError("the engine is closed")
        if self._failure is not None:
            raise EngineError(f"the engine has failed and can't go on: {_described(self._failure)}") from self._failure
        return self._thread.submit(self._run, work)

    def _run(self, work: Callable[[], _T]) -> Timed[_T]:
        """One task on the compute thread. Once one has failed, what was queued behind it fails with it."""
        if self._failure is not None:
            raise self._failure
        try:
            with torch.inference_mode():
                start_ns = time.monotonic_ns()
                value = work()
                return Timed(value, start_ns, time.monotonic_ns())
        except BaseException as error:
            self._failure = error
            raise


def _mine(ticket: Ticket) -> StepTicket:
    if not isinstance(ticket, StepTicket):
        raise EngineError(f"{ticket!r} isn't a ticket of this engine")
    return ticket


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def create_engine(folder: Path, name: str, engine: EngineConfig, scheduler: SchedulerConfig) -> Engine | CudaEngine:
    """Load a model and get everything ready for its first step.

    Args:
        folder: model in Hugging Face's layout: config.json, *.safetensors, perhaps generation_config.json.
        name: what clients call the model.
        engine: device, dtype, threads, pages.
        scheduler: how many rows there are, and how long a step can be.

    Raises:
        StartupError: the model can't be found, isn't supported, or doesn't fit; or the device can't be used.
        OptionError: `--max-model-len` is more than the model's context, or options don't go together.
    """
    if choose_device(engine).type == "cuda":
        # Kernels are launched by the thread that submits, so it is also the one that loads.
        loaded = load_model_runner(folder, name, engine, scheduler, _log.info)
        assert loaded.cuda is not None
        return CudaEngine(loaded.runner, loaded.info, loaded.cuda)
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
    try:
        if SHORT_WAITS:
            # each thread that runs operators gets a team of OpenMP threads, so loading is left to the one that does
            loaded = thread.submit(load_model_runner, folder, name, engine, scheduler).result()
        else:
            # Here a second team is wanted: with more threads than cores, GNU's runtime has them sleep at once.
            # Spinning for milliseconds, which they would do otherwise, is a catastrophe with busy neighbours.
            loaded = load_model_runner(folder, name, engine, scheduler)
    except BaseException:
        thread.shutdown()
        raise
    return Engine(loaded, thread)
