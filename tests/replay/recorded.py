"""Recordings for the tests of the replay: a real scheduler's on the fake executor, with what its objects held."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from learnsgl.config import TraceLevel
from learnsgl.scheduler.live_state import LiveState
from learnsgl.trace import keyframe
from learnsgl.trace.events import Event
from learnsgl.trace.fold import Fold
from learnsgl.trace.state import PARTS, Columns, StateReader, digest_of
from tests.scheduler.harness import Harness
from tests.trace.story import at_level, write

NAME = "scheduler-0"
LONG = list(range(1, 41))


class Recorded(NamedTuple):
    """A scheduler's run: its events, and what the live objects held after so many of them, part by part."""

    events: Sequence[Event]
    live: dict[int, dict[str, Columns]]


def parts(reader: StateReader) -> dict[str, Columns]:
    return {part: reader.read(part) for part in PARTS}


def same(one: dict[str, Columns], other: dict[str, Columns]) -> bool:
    return all(
        list(one[part]) == list(other[part])
        and all(np.array_equal(one[part][name], other[part][name]) for name in one[part])
        for part in PARTS
    )


def run(num_requests: int = 30) -> Recorded:
    """Requests that share prefixes, come and go, wait, and are aborted; pages are short, so leaves are evicted."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keyframe, "MIN_ITERATIONS", 12)  # keyframes come as often as in a long recording
        return _run(num_requests)


def _run(num_requests: int) -> Recorded:
    harness = Harness(max_prefill_length=8, num_pages=48, max_model_len=48, num_rows=4, prefix_wait_tokens=4)
    live: dict[int, dict[str, Columns]] = {}
    for i in range(num_requests):
        uid = harness.send([*LONG[: 1 + i % 20], 1 + i % 9], 4, ignore_eos=True)
        if i % 7 == 3:
            harness.abort(uid if i % 2 else uid - 1)
        for _ in range(2):
            harness.step()
            live[len(harness.recorder.events)] = parts(LiveState(harness.scheduler))
    harness.run()
    return Recorded(harness.recorder.events, live)


def digests(events: Sequence[Event]) -> list[int]:
    """The digest of the state after each event, folded from the start; the first is that before any."""
    fold = Fold()
    found = [digest_of(fold.state)]
    for event in events:
        fold.apply(event)
        found.append(digest_of(fold.state))
    return found


def record(root: Path, events: Sequence[Event], level: TraceLevel = TraceLevel.FULL, frame_events: int = 16) -> Path:
    story: dict[str, list[Any]] = {NAME: list(events)}
    return write(root, at_level(story, level), level, frame_events)
