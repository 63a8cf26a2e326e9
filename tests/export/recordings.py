"""Recordings of every sort for the exports: whole, cut off, late, of each level, packed, with two ranks, with none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from learnsgl.config import Config, SchedulerConfig, TraceConfig, TraceLevel
from learnsgl.core import SamplingParams
from learnsgl.message.types import UserMsg
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.trace import events as ev
from learnsgl.trace.manifest import create_run
from learnsgl.trace.pack import pack
from learnsgl.trace.reader import kind_of
from learnsgl.trace.recorder import open_recorder
from tests.fakes import FakeExecutor
from tests.trace.story import UID, C, Story, U, at_level, i4, i8, tell, write

PROMPT, ANSWER = "a secret question", ["a sec", "ret answer"]
ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "traces" / "first_request.trace.zip"


def spoken() -> Story:
    """The story with its words."""
    story = tell()
    story["tokenizer-0"].insert(4, ev.TokText(131, UID, PROMPT, i4(5, 6, 7)))
    detokenizer = story["detokenizer"]
    detokenizer.insert(4, ev.DetokText(261, 1, U, C, i4(8), [ANSWER[0]]))
    detokenizer.insert(8, ev.DetokText(361, 2, U, C, i4(9), [ANSWER[1]]))
    return at_level(story, TraceLevel.TOKENS)


def offline() -> Story:
    """The same request in one process, as `learnsgl.llm.LLM` records it."""
    merged = [
        event
        for its_events in tell().values()
        for event in its_events
        if not isinstance(event, (ev.MsgSent, ev.MsgReceived, ev.TraceBegin)) and not kind_of(event).startswith("proc")
    ]
    merged.sort(key=lambda event: event.ns)
    begin = [ev.ProcessStarted(5, "llm", "llm", 100, 1), ev.TraceBegin(6, "full", False)]
    return {"llm": [*begin, *merged, ev.ProcessEnded(700)]}


def two_ranks() -> Story:
    """Two schedulers that decide the same."""
    story = tell()
    story["scheduler-1"] = [
        ev.ProcessStarted(5, "scheduler-1", "scheduler", 104, 1) if isinstance(event, ev.ProcessStarted) else event
        for event in story["scheduler-0"]
        if not isinstance(event, (ev.MsgSent, ev.MsgReceived))
    ]
    return story


def several_choices() -> Story:
    """A request with two choices, of which one breaks."""
    story = tell()
    for process, its_events in story.items():
        doubled = []
        for event in its_events:
            doubled.append(event)
            if isinstance(event, ev.ReqQueued):
                doubled.append(ev.ReqQueued(event.ns, UID, 1, 2, 3, 5, None))
            if isinstance(event, ev.ReqEnded):
                doubled.append(ev.ReqEnded(event.ns, UID, 1, "error", 500, "engine_error", 3, 0, 0))
        story[process] = doubled
    return story


def scheduled(
    root: Path, *, num_requests: int = 40, num_pages: int = 64, segment_bytes: int = 1 << 26, level: str = "full"
) -> Path:
    """A real scheduler's recording on a made-up clock: shared prefixes, waiting, evictions."""
    folder = create_run(root, Config().to_json(), ["learnsgl", "serve"])
    config = TraceConfig(trace=root, trace_segment_bytes=segment_bytes, trace_level=TraceLevel(level))
    recorder = open_recorder(folder, config, "scheduler-0", "scheduler")
    executor = FakeExecutor(num_pages=num_pages, max_model_len=64, num_rows=4)
    recorder.emit(ev.EngineReady(recorder.now(), "fake", "cpu", "none", num_pages, 1, 64, 4, {}))
    scheduler = Scheduler(SchedulerConfig(max_running_requests=4), executor, recorder, run_key=b"key")
    uids = itertools.count(1)
    for turn in range(num_requests * 40):
        if turn % 3 == 0 and (uid := next(uids)) <= num_requests:
            prompt = np.array([1, 2, 3, *range(uid % 5), uid], np.int32).tobytes()
            scheduler.receive([UserMsg(uid, prompt, SamplingParams(max_tokens=4 + uid % 9, ignore_eos=True))])
        if scheduler.has_work:
            scheduler.step()
        recorder.flush()
    assert not scheduler.has_work
    scheduler.close()
    recorder.close()
    return folder


def late(root: Path) -> Path:
    """A scheduler's recording whose first files the limit on size has dropped."""
    folder = scheduled(root, segment_bytes=12_000)
    for place in (1, 2):
        (folder / f"scheduler-0.{place}.trace").unlink()
    return folder


def cut(root: Path) -> Path:
    """Everything killed at once, the scheduler within a frame."""
    story = tell()
    for name, count in (("api", 10), ("tokenizer-0", 5), ("scheduler-0", 17), ("detokenizer", 4)):
        del story[name][count:]
    folder = write(root, story)
    file = folder / "scheduler-0.1.trace"
    file.write_bytes(file.read_bytes()[:-5])
    return folder


def packed(root: Path) -> Path:
    return pack(write(root / "runs", tell()), root / "story.trace.zip")


def nothing(root: Path) -> Path:
    return create_run(root, Config().to_json(), ["learnsgl", "serve"])


SORTS: dict[str, Callable[[Path], Path]] = {
    "whole": lambda root: write(root, tell()),
    "steps": lambda root: write(root, at_level(tell(), TraceLevel.STEPS), TraceLevel.STEPS),
    "tokens": lambda root: write(root, spoken(), TraceLevel.TOKENS),
    "two ranks": lambda root: write(root, two_ranks()),
    "offline": lambda root: write(root, offline()),
    "choices": lambda root: write(root, several_choices()),
    "cut": cut,
    "late": late,
    "packed": packed,
    "nothing": nothing,
    "scheduled": scheduled,
    "scheduled steps": lambda root: scheduled(root, level="steps"),
    "recorded": lambda root: RECORDED,
}

__all__ = ["ANSWER", "PROMPT", "RECORDED", "SORTS", "i8", "late", "scheduled", "spoken", "tell", "write"]
