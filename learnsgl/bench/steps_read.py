"""What the device did for the steps of a stretch of a recording: how long each took, and how long it waited in between.

`steps.py` asks for it once an engine has ended and its recording is whole.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from learnsgl.errors import ServingError
from learnsgl.trace import events
from learnsgl.trace.reader import Trace


class StepTimes(msgspec.Struct, frozen=True):
    """Times of steps that are alike.

    Attributes:
        device_us: of each step: from the beginning of its forward pass to the end of its sampling.
        gap_us: before each step that followed a step like it: for how long the device had nothing to do.
        wall_us: of each of these: from the beginning of the step ahead to its own.
        context_tokens: of each step: tokens that its requests attended to, all of them together.
        num_in_graphs: steps that replayed a CUDA graph.
        uncertainty_us: how far off any of these times may be, at most; 0 where the host's clock gave them.
    """

    device_us: list[float]
    gap_us: list[float]
    wall_us: list[float]
    context_tokens: list[int]
    num_in_graphs: int
    uncertainty_us: float


def read_steps(
    folder: Path, span: tuple[int, int], *, batch: int, prompt_len: int | None = None, skip: int = 0
) -> StepTimes:
    """Read the steps of a stretch.

    Args:
        folder: of the recording.
        span: its beginning and end, ns on the clock of recordings.
        batch: requests in a step that counts.
        prompt_len: tokens of the prompts that the steps compute whole; `None` for steps in which answers go on and
            nothing else.
        skip: how many of the first steps don't count.

    Raises:
        ServingError: the stretch has no such step.
    """
    found: dict[int, int] = {}
    device: dict[int, events.EngineForward] = {}
    for entry in Trace.open(folder).events():
        match entry.event:
            case events.SchedStep() as step if span[0] <= step.ns <= span[1] and _is_like(step, batch, prompt_len):
                found[step.step] = int((_ints(step.starts) + _ints(step.lens)).sum())
            case events.EngineForward() as forward:
                device[forward.step] = forward
    numbers = [number for number in found if number in device][skip:]
    if not numbers:
        what = "decode steps" if prompt_len is None else f"prompts of {prompt_len:,} tokens in one step"
        raise ServingError(f"the recording has no {what} of {batch} requests at once")
    mine = [device[number] for number in numbers]
    pairs = [(device[number - 1], device[number]) for number in numbers if number - 1 in found and number - 1 in device]
    return StepTimes(
        device_us=[(one.sample_end_ns - one.forward_start_ns) / 1e3 for one in mine],
        gap_us=[(after.forward_start_ns - before.sample_end_ns) / 1e3 for before, after in pairs],
        wall_us=[(after.forward_start_ns - before.forward_start_ns) / 1e3 for before, after in pairs],
        context_tokens=[found[number] for number in numbers],
        num_in_graphs=sum(one.graph_size is not None for one in mine),
        uncertainty_us=max(one.uncertainty_ns for one in mine) / 1e3,
    )


def _is_like(step: events.SchedStep, batch: int, prompt_len: int | None) -> bool:
    lens = _ints(step.lens)
    if len(lens) != batch:
        return False
    if prompt_len is None:
        return step.num_prefill == 0
    return step.num_prefill == batch and bool((lens == prompt_len).all())


def _ints(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.frombuffer(data, dtype=np.int32)
