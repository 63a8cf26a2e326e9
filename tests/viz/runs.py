"""Recordings for the figures: told by hand, made by the real scheduler on the fake executor, or from `traces/`.

No model and no process is needed for any of them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from learnsgl.config import SchedulerConfig, TraceLevel
from learnsgl.core import SamplingParams
from learnsgl.message.types import UserMsg
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.trace import events as ev
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import MemoryRecorder
from tests.fakes import FakeExecutor
from tests.trace.story import Story, at_level, tell, write

RECORDINGS = Path(__file__).parents[2] / "traces"
FIRST_REQUEST = RECORDINGS / "first_request.trace.zip"
SHARED_PREFIX = RECORDINGS / "shared_prefix.trace.zip"
TICK_NS = 50_000


def scheduled(
    num_requests: int, *, num_pages: int = 64, page_size: int = 1, max_tokens: int = 8, num_rows: int = 8,
    max_steps: int | None = None, **options: object,
) -> list[Event]:  # fmt: skip
    """What a scheduler records that serves requests of three families of prompts; its clock ticks with each look."""
    ticks = itertools.count(TICK_NS, TICK_NS)
    recorder = MemoryRecorder()
    executor = FakeExecutor(num_pages, page_size, 64, num_rows)
    config = SchedulerConfig(max_running_requests=num_rows, **options)  # type: ignore[arg-type]
    recorder.emit(ev.ProcessStarted(0, "scheduler-0", "scheduler", 102, 1))
    recorder.emit(ev.TraceBegin(0, "full", False))
    memory = {
        "weights": 9_000_000,
        "kv_pages": 4_000_000,
        "available_before": 20_000_000,
        "page": 4_000_000 // num_pages,
    }
    recorder.emit(ev.EngineReady(0, "fake", "fake", "none", num_pages, page_size, 64, num_rows, memory))
    scheduler = Scheduler(config, executor, recorder, clock=lambda: next(ticks), run_key=b"key")
    for uid in range(1, num_requests + 1):
        prompt = [7 + uid % 3] * 12 + [uid % 5 + 1, uid % 90 + 1, 3]
        sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        scheduler.receive([UserMsg(uid, np.array(prompt, dtype=np.int32).tobytes(), sampling)])
    steps = itertools.count(1)
    while scheduler.has_work and (max_steps is None or next(steps) <= max_steps):
        scheduler.step()
    if max_steps is None:
        scheduler.close()
    return _with_device_times(list(recorder.events))


def _with_device_times(recorded: list[Event]) -> list[Event]:
    """The fake's device reads the real clock: put each step's time between its submission and its collection."""
    submitted = {event.step: event.ns for event in recorded if isinstance(event, ev.BatchSubmitted)}
    told: list[Event] = []
    for event in recorded:
        if isinstance(event, ev.EngineForward):
            start, end = submitted[event.step], event.ns - TICK_NS // 2
            event = msgspec.structs.replace(
                event, forward_start_ns=start, forward_end_ns=end - 9, sample_start_ns=end - 9, sample_end_ns=end
            )
        told.append(event)
    return told


def story_of(recorded: list[Event], *, ended: bool = True) -> Story:
    """A run with the scheduler's process alone."""
    last = [ev.ProcessEnded(recorded[-1].ns + 1)] if ended else []
    return {"scheduler-0": [*recorded, *last]}


def trace_of(root: Path, story: Story, level: TraceLevel = TraceLevel.FULL) -> Trace:
    """Write a story, and open it."""
    return Trace.open(write(root, at_level(story, level), level))


def told(root: Path, level: TraceLevel = TraceLevel.FULL) -> Trace:
    """The small run of `tests/trace/story.py`, with phases of a start-up."""
    story = tell()
    story["scheduler-0"].insert(2, ev.ProcessPhase(17, "load_weights", 8))
    story["api"].insert(6, ev.ProcessPhase(29, "start_workers", 9))
    return trace_of(root, story, level)


def texts_outside(figure: Figure) -> list[str]:
    """Words that are cut off by the edge of a figure. It is drawn for that."""
    figure.set_dpi(60)
    figure.draw_without_rendering()
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    width, height = figure.bbox.width, figure.bbox.height
    found = []
    for text in _visible(figure):
        box = text.get_window_extent(renderer)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(f"{text.get_text()!r} at {box.x0:.0f} to {box.x1:.0f}, {box.y0:.0f} to {box.y1:.0f}")
    return found


def _visible(figure: Figure) -> list[Text]:
    """Texts that are drawn: neither empty, nor labels of ticks beyond an axis."""
    beyond: list[Text] = []
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = min(limits), max(limits)
            slack = 1e-6 * (high - low)
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            beyond += [label for at, label in ticks if not low - slack <= at <= high + slack]
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [text for text in texts if text.get_text().strip() and text.get_visible() and text not in beyond]


def words_of(figure: Figure) -> str:
    """All words of a figure, in one line."""
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text) if isinstance(text, Text))
