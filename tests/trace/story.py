"""A small run told event by event: one streamed request through four processes. Tests tell it wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from learnsgl.config import Config, TraceLevel
from learnsgl.trace import events as ev
from learnsgl.trace.events import Event
from learnsgl.trace.manifest import create_run, run_id_of
from learnsgl.trace.recorder import Recorder
from learnsgl.trace.segments import Identity, SegmentWriter

Story = dict[str, list[Event]]
PIDS = {"api": 100, "tokenizer-0": 101, "scheduler-0": 102, "detokenizer": 103}
UID = 7


def i8(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def i4(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


U, C = i8(UID), i4(0)


def tell() -> Story:
    """The run as it should be. Moments are the order of things; a prompt of 3 tokens gets an answer of 2."""
    api: list[Event] = [
        ev.ProcessSpawned(10, "tokenizer-0", 101),
        ev.ProcessSpawned(10, "scheduler-0", 102),
        ev.ProcessSpawned(10, "detokenizer", 103),
        ev.ProcessReady(20, "scheduler-0", 19),
        ev.ProcessServing(30, "127.0.0.1", 8000),
        ev.HttpReceived(100, UID, "/v1/completions", True, 50),
        ev.MsgSent(110, "tokenizer-0", 1, "TokenizeMsg", U, 40),
        ev.MsgReceived(270, "detokenizer", "api", 1, 262, 60),
        ev.MsgReceived(370, "detokenizer", "api", 2, 362, 60),
        ev.HttpStreamed(390, i8(UID, UID), i4(0, 0), i8(275, 375), i4(30, 30)),
        ev.ReqEnded(400, UID, 0, "length", 200, None, 3, 0, 2),
        ev.HttpAnswered(401, UID, 200, 60),
        ev.ProcessStopping(500, "signal", 0),
        ev.ProcessExited(600, "tokenizer-0", 101, 0),
        ev.ProcessExited(600, "scheduler-0", 102, 0),
        ev.ProcessExited(600, "detokenizer", 103, 0),
        ev.ProcessEnded(700),
    ]
    tokenizer: list[Event] = [
        ev.MsgReceived(120, "api", "tokenizer-0", 1, 110, 40),
        ev.TokTokenized(130, UID, 121, 3),
        ev.MsgSent(140, "scheduler", 1, "UserMsg", U, 80),
        ev.ProcessEnded(550),
    ]
    scheduler: list[Event] = [
        ev.EngineReady(18, "fake", "cpu", "float32", 16, 1, 64, 4, {}),
        ev.MsgReceived(150, "tokenizer-0", "scheduler", 1, 140, 80),
        ev.ReqQueued(160, UID, 0, 1, 3, 5, None),
        ev.SchedAdmitted(170, 1, U, C, i4(0), i4(0), i8(0), i4(5)),
        ev.PageAllocated(175, 1, i4(0), i4(3), i4(0, 1, 2)),
        ev.SchedStep(180, 1, 165, U, C, i4(0), i4(3), 1, 0, 13),
        ev.BatchSubmitted(190, 1, 181),
        ev.BatchCollected(240, 1, 191),
        ev.EngineForward(241, 1, 195, 220, 221, 235),
        ev.SchedCommitted(250, 1, 241, U, C, b"\x01"),
        ev.MsgSent(252, "detokenizer", 1, "DetokenizeMsg", U, 90),
        ev.PageAllocated(275, 2, i4(0), i4(1), i4(3)),
        ev.SchedStep(280, 2, 270, U, C, i4(3), i4(1), 0, 0, 12),
        ev.BatchSubmitted(290, 2, 281),
        ev.BatchCollected(340, 2, 291),
        ev.EngineForward(341, 2, 295, 320, 321, 335),
        ev.SchedCommitted(350, 2, 341, U, C, b"\x01"),
        ev.ReqFinished(351, 2, U, C, ["length"], i4(2)),
        ev.ReqReleased(352, 2, U, C, i4(0), i4(0, 1, 2, 3)),
        ev.MsgSent(353, "detokenizer", 2, "DetokenizeMsg", U, 90),
        ev.ProcessEnded(560),
    ]
    detokenizer: list[Event] = [
        ev.MsgReceived(255, "scheduler-0", "detokenizer", 1, 252, 90),
        ev.DetokDecoded(260, 256, 1, U, C, i4(4)),
        ev.MsgSent(262, "api", 1, "UserReply", U, 60),
        ev.MsgReceived(355, "scheduler-0", "detokenizer", 2, 353, 90),
        ev.DetokDecoded(360, 356, 2, U, C, i4(3)),
        ev.MsgSent(362, "api", 2, "UserReply", U, 60),
        ev.ProcessEnded(570),
    ]
    told = {"api": api, "tokenizer-0": tokenizer, "scheduler-0": scheduler, "detokenizer": detokenizer}
    for name, its_events in told.items():
        its_events[:0] = [ev.ProcessStarted(5, name, role_of(name), PIDS[name], 1), ev.TraceBegin(6, "full", False)]
    return told


def role_of(name: str) -> str:
    return name.partition("-")[0]


def at_level(story: Story, level: TraceLevel) -> Story:
    """The same run, recorded at a lower level."""
    order = list(TraceLevel)
    return {
        name: [
            ev.TraceBegin(event.ns, level.value, event.late) if isinstance(event, ev.TraceBegin) else event
            for event in its_events
            if order.index(event.LEVEL) <= order.index(level)
        ]
        for name, its_events in story.items()
    }


def write(root: Path, story: Story, level: TraceLevel = TraceLevel.FULL, frame_events: int = 4) -> Path:
    """Record a story in frames of a few events."""
    folder = create_run(root, Config().to_json(), ["learnsgl", "serve"])
    for name, its_events in story.items():
        identity = Identity(run_id_of(folder), name, role_of(name), PIDS.get(name, 1), level.value)
        writer = SegmentWriter(folder, identity, 1 << 20, 0)
        recorder = Recorder(level, writer)
        for place, event in enumerate(its_events, start=1):
            recorder.emit(event)
            if place % frame_events == 0:
                recorder.flush()
        recorder.flush()
        writer.close()
    return folder
