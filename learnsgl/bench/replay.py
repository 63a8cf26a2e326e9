"""`learnsgl bench replay`: opening a recording, getting anywhere in it, folding and exporting it, by its length.

The recordings are of one load, 256 running requests beside a radix tree of some thousand nodes, made with the real
scheduler (`recorded_load.py`) and thrown away. Each task has a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from learnsgl.bench.recorded_load import PREFIX_LEN, RecordedLoad, Shape
from learnsgl.bench.replay_task import EXPORT, TASKS, Measured
from learnsgl.errors import OptionError, ServingError
from learnsgl.trace.events import TraceKeyframe
from learnsgl.trace.reader import Trace

Tell = Callable[[str], None]


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        events: lengths of the recordings.
        seeks: moments that are visited, and how often each recording is opened.
        running: requests that run at once.
        nodes: nodes of the radix tree, roughly.
        prompt_len, output_len: tokens of each request.
        page_size: tokens a page.
        formats: formats of exports, by their names.
    """

    events: list[int]
    seeks: int
    running: int
    nodes: int
    prompt_len: int
    output_len: int
    page_size: int
    formats: list[str]


class Length(msgspec.Struct):
    """One recording.

    Attributes:
        num_events: events in it.
        num_bytes: size of its files.
        num_nodes: nodes of the tree before the last requests ended.
        num_keyframes: keyframes that were begun.
        measured: what each task took.
    """

    num_events: int
    num_bytes: int
    num_nodes: int
    num_keyframes: int
    measured: list[Measured]


def measure(settings: Settings, tell: Tell) -> list[Length]:
    """Make a recording of each length, and measure every task on it.

    Raises:
        OptionError: the prompts are too short for their common prefixes.
        ServingError: a task failed.
    """
    if settings.prompt_len <= PREFIX_LEN:
        raise OptionError(
            f"--input-len is {settings.prompt_len}; prompts begin with one of a few prefixes of {PREFIX_LEN} tokens, "
            f"so give at least {PREFIX_LEN + 1}"
        )
    found = []
    for num_events in settings.events:
        with tempfile.TemporaryDirectory(prefix="learnsgl-bench-") as temp:
            tell(f"recording {num_events:,} events")
            found.append(_measure(settings, num_events, Path(temp), tell))
    return found


def _measure(settings: Settings, num_events: int, root: Path, tell: Tell) -> Length:
    shape = Shape(
        settings.running, settings.nodes, settings.prompt_len, settings.output_len, settings.page_size
    )  # fmt: skip
    load = RecordedLoad(root, shape)
    load.record(num_events)
    trace = Trace.open(load.folder)
    length = Length(trace.num_events, trace.num_bytes, load.num_nodes, _num_keyframes(trace), [])
    for task in [*TASKS, *(f"{EXPORT}{name}" for name in settings.formats)]:
        tell(f"{num_events:,} events: {task}")
        length.measured.append(_in_a_process(task, load.folder, settings.seeks))
    return length


def _num_keyframes(trace: Trace) -> int:
    slices = (entry.event for entry in trace.events("scheduler-0") if isinstance(entry.event, TraceKeyframe))
    return sum(slice_.index == 0 for slice_ in slices)


def _in_a_process(task: str, folder: Path, seeks: int) -> Measured:
    words = [sys.executable, "-m", "learnsgl.bench.replay_task", task, str(folder), str(seeks)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise ServingError(f"the task {task} ended with exit code {done.returncode}: {last}")
    return msgspec.json.decode(done.stdout, type=Measured)
