"""A whole run is proved; each way in which one can be wrong is found, and named by its first event."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from learnsgl.config import Config, SchedulerConfig, TraceConfig, TraceLevel
from learnsgl.core import SamplingParams
from learnsgl.errors import TraceViolation
from learnsgl.message.types import UserMsg
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.trace import events as ev
from learnsgl.trace.events import Event
from learnsgl.trace.frames import HEADER
from learnsgl.trace.manifest import create_run
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import open_recorder
from learnsgl.trace.verify import Report, verify
from tests.fakes import FakeExecutor
from tests.trace.story import UID, C, Story, U, at_level, i4, i8, tell, write


def check(root: Path, story: Story, level: TraceLevel = TraceLevel.FULL) -> Report:
    return verify(Trace.open(write(root, story, level)))


def of_kind(events: list[Event], kind: type[Event], nth: int = 0) -> int:
    return [place for place, event in enumerate(events) if isinstance(event, kind)][nth]


def remove(process: str, kind: type[Event], nth: int = 0) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        del story[process][of_kind(story[process], kind, nth)]

    return change


def alter(process: str, kind: type[Event], nth: int = 0, **fields: Any) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        place = of_kind(story[process], kind, nth)
        story[process][place] = msgspec.structs.replace(story[process][place], **fields)

    return change


def add(process: str, before: type[Event], event: Event) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        story[process].insert(of_kind(story[process], before), event)

    return change


def twice(process: str, kind: type[Event]) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        place = of_kind(story[process], kind)
        story[process].insert(place, story[process][place])

    return change


def swap(process: str, first: type[Event], second: type[Event]) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        its_events = story[process]
        i, j = of_kind(its_events, first), of_kind(its_events, second)
        earlier, later = its_events[i].ns, its_events[j].ns
        its_events[i], its_events[j] = its_events[j], its_events[i]
        its_events[i].ns, its_events[j].ns = earlier, later

    return change


def test_a_whole_run_is_proved(tmp_path: Path) -> None:
    report = check(tmp_path, tell())
    assert report.is_whole
    text = str(report)
    for words in (
        "57 events without a gap (api 19, tokenizer-0 6, scheduler-0 23, detokenizer 9)",
        "4 began in order, 4 ended in order",
        "6 sent and received once, in order",
        "1 with exactly one ending (length 1); 1 gave their pages back",
        "2 scheduled, run and taken over",
        "nothing above full, so no text and no token ids",
    ):
        assert words in text
    assert len(text.splitlines()) < 20


def test_at_level_steps_less_is_proved(tmp_path: Path) -> None:
    report = check(tmp_path, at_level(tell(), TraceLevel.STEPS), TraceLevel.STEPS)
    assert report.is_whole
    assert "messages" not in str(report)
    assert "1 with exactly one ending" in str(report)


VIOLATIONS: dict[str, tuple[Callable[[Story], None], str]] = {
    "no process.started": (remove("tokenizer-0", ev.ProcessStarted), r"tokenizer-0, event 1 \(trace.begin\): a proc"),
    "no trace.begin": (remove("tokenizer-0", ev.TraceBegin), r"event 2 \(msg.received\): .* must be trace.begin"),
    "events after the end": (
        add("api", ev.ProcessEnded, ev.ProcessEnded(650)),
        r"api, event 19 \(process.ended\): the process has ended, but 1 events follow",
    ),
    "another pid": (alter("detokenizer", ev.ProcessStarted, pid=9), "pid 9; the file is of detokenizer, pid 103"),
    "started twice": (twice("api", ev.ProcessSpawned), "tokenizer-0 was started before"),
    "ready, never started": (alter("api", ev.ProcessReady, name="x"), "x is ready, but was never started"),
    "ready twice": (twice("api", ev.ProcessReady), "scheduler-0 became ready twice"),
    "ended twice": (twice("api", ev.ProcessExited), "tokenizer-0 ended before"),
    "end unrecorded": (
        remove("api", ev.ProcessExited),
        r"api, event 3 \(process.spawned\): tokenizer-0 was started, but neither process.exited nor process.lost",
    ),
    "ended in order, cut": (
        remove("scheduler-0", ev.ProcessEnded), "scheduler-0 ended in order, but its recording has no process.ended",
    ),
    "message not received": (
        remove("detokenizer", ev.MsgReceived, 1),
        r"scheduler-0, event 22 \(msg.sent\): message 2 on channel detokenizer was sent, but never received",
    ),
    "message not sent": (
        remove("scheduler-0", ev.MsgSent, 1),
        r"detokenizer, event 6 \(msg.received\): message 2 from scheduler-0 was received, but never sent",
    ),
    "message skipped": (
        remove("scheduler-0", ev.MsgSent, 0), "message 2 was sent, but 1 comes next on this channel",
    ),
    "received twice": (twice("api", ev.MsgReceived), "message 1 from detokenizer was taken after message 1"),
    "received too early": (
        alter("tokenizer-0", ev.MsgReceived, ns=100), "was received 10 ns before it was sent",
    ),
    "another moment": (
        alter("tokenizer-0", ev.MsgReceived, sent_ns=111),
        r"tokenizer-0, event 3 \(msg.received\): says sent at 111, 40 bytes; api sent it at 110, 40 bytes \(event 9\)",
    ),
    "another size": (alter("api", ev.MsgSent, num_bytes=1), "says sent at 110, 40 bytes; api sent it at 110, 1 bytes"),
    "two receivers": (
        add("tokenizer-0", ev.ProcessEnded, ev.MsgReceived(500, "api", "detokenizer", 1, 499, 1)),
        "channel detokenizer is detokenizer's, but tokenizer-0 takes a message from it",
    ),
    "received twice over HTTP": (twice("api", ev.HttpReceived), "request 7 was received before"),
    "no ending": (remove("api", ev.ReqEnded), r"api, event 8 \(http.received\): request 7 has no ending"),
    "two endings": (twice("api", ev.ReqEnded), r"\(req.ended\): request 7 ended before, at event 13"),
    "ending of nobody": (
        add("api", ev.ProcessEnded, ev.ReqEnded(600, 8, 0, "stop", 200, None, 1, 0, 1)),
        "request 8 ended, but was never received",
    ),
    "unknown reason": (alter("api", ev.ReqEnded, reason="tired"), "request 7 ended by 'tired'; allowed: stop, length"),
    "choice without ending": (
        add("scheduler-0", ev.SchedAdmitted, ev.ReqRefused(161, UID, 1, "invalid_value", 3)),
        "request 7 choice 1 was refused, but its client got no ending",
    ),
    "queued twice": (twice("scheduler-0", ev.ReqQueued), "request 7 was queued before, at event 5"),
    "never queued": (remove("scheduler-0", ev.ReqQueued), "request 7 was admitted, but never queued"),
    "admitted twice": (twice("scheduler-0", ev.SchedAdmitted), "was admitted, but had left the queue before"),
    "never finished": (
        lambda story: (remove("scheduler-0", ev.ReqFinished)(story), remove("scheduler-0", ev.ReqReleased)(story))[0],
        "request 7 was queued, but never finished",
    ),
    "finished twice": (twice("scheduler-0", ev.ReqFinished), "request 7 finished before"),
    "never released": (remove("scheduler-0", ev.ReqReleased), "request 7 never gave its row and pages back"),
    "released twice": (twice("scheduler-0", ev.ReqReleased), "request 7 was released, but was released before"),
    "released before it finished": (swap("scheduler-0", ev.ReqFinished, ev.ReqReleased), "but has not finished"),
    "another usage": (
        alter("api", ev.ReqEnded, completion_tokens=3),
        r"api, event 13 \(req.ended\): request 7: completion_tokens is 3; scheduler-0 counted 2",
    ),
    "another prompt length": (alter("api", ev.ReqEnded, prompt_tokens=4), "prompt_tokens is 4; scheduler-0 counted 3"),
    "another cached length": (alter("api", ev.ReqEnded, cached_tokens=1), "cached_tokens is 1; scheduler-0 counted 0"),
    "another reason": (alter("api", ev.ReqEnded, reason="stop"), "reason is stop; scheduler-0 counted length"),
    "first step isn't 1": (alter("scheduler-0", ev.SchedStep, step=2), "the first step is 2; steps count from 1"),
    "step left out": (alter("scheduler-0", ev.SchedStep, 1, step=3), "step 3 follows step 1"),
    "step not run": (remove("scheduler-0", ev.EngineForward), "was taken over, but no engine.forward says that it ran"),
    "step run twice": (twice("scheduler-0", ev.EngineForward), "step 1 ran before"),
    "step of others": (alter("scheduler-0", ev.SchedCommitted, uids=i8(9)), "for other requests than it was scheduled"),
    "backward in time": (alter("scheduler-0", ev.EngineForward, forward_end_ns=1), "forward pass ended 194 ns before"),
    "sampled too early": (
        alter("scheduler-0", ev.EngineForward, sample_start_ns=200), "step 1 sampled before its forward pass had ended",
    ),
    "passes out of order": (
        alter("scheduler-0", ev.EngineForward, 1, forward_start_ns=100),
        "the forward pass of step 2 began before that of an earlier step",
    ),
    "work for no step": (
        alter("scheduler-0", ev.BatchSubmitted, 1, step=9), r"\(batch.submitted\): step 9 is not under way",
    ),
    "wait backward in time": (alter("scheduler-0", ev.BatchCollected, start_ns=999), "the wait ended 759 ns before"),
    "page given twice": (
        alter("scheduler-0", ev.PageAllocated, 1, pages=i4(2)),
        r"scheduler-0, event 14 \(page.allocated\): a page is given out that somebody holds",
    ),
    "page not freed": (alter("scheduler-0", ev.ReqReleased, freed=i4(0, 1, 2)), "pages that it frees are not those"),
    "digest not met": (alter("scheduler-0", ev.SchedStep, 1, digest=5), r"event 15 \(sched.step\): the state folded"),
    "arrays of two lengths": (alter("scheduler-0", ev.ReqFinished, choices=i4(0, 0)), r"8 bytes of uids \(int64\) and"),
    "text below level tokens": (
        add("tokenizer-0", ev.ProcessEnded, ev.TokText(141, UID, "secret", b"")),
        r"tokenizer-0, event 6 \(tok.text\): is of level tokens, and the trace is of level full",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_found_and_named(tmp_path: Path, name: str) -> None:
    change, message = VIOLATIONS[name]
    story = tell()
    change(story)
    with pytest.raises(TraceViolation, match=message):
        check(tmp_path, story)


def test_a_lost_frame_is_a_gap(tmp_path: Path) -> None:
    folder = write(tmp_path, tell())
    frame = Trace.open(folder).process("scheduler-0").frames[2]
    path = folder / frame.file
    data = path.read_bytes()
    path.write_bytes(data[: frame.offset] + data[frame.offset + HEADER.size + frame.header.payload_len :])
    with pytest.raises(TraceViolation, match=r"event 13 .*: events 9 to 12 are missing, and nothing says why"):
        verify(Trace.open(folder))


@pytest.mark.parametrize(
    ("kind", "words"), [(ev.SchedCommitted, "taken over"), (ev.EngineForward, "run by the engine")]
)
def test_a_step_needs_its_end_at_level_steps_too(tmp_path: Path, kind: type[Event], words: str) -> None:
    story = at_level(tell(), TraceLevel.STEPS)
    remove("scheduler-0", ev.SchedCommitted, 1)(story)
    if kind is ev.EngineForward:
        remove("scheduler-0", ev.EngineForward, 1)(story)
    with pytest.raises(TraceViolation, match=rf"scheduler-0, event 9 \(sched.step\): step 2 was never {words}"):
        check(tmp_path, story, TraceLevel.STEPS)


def record_scheduler(root: Path) -> Path:
    """A real scheduler's recording, in small files."""
    folder = create_run(root, Config().to_json(), ["learnsgl", "serve"])
    recorder = open_recorder(folder, TraceConfig(trace=root, trace_segment_bytes=12_000), "scheduler-0", "scheduler")
    executor = FakeExecutor(num_pages=64, max_model_len=64, num_rows=4)
    recorder.emit(ev.EngineReady(recorder.now(), "fake", "cpu", "none", 64, 1, 64, 4, {}))
    scheduler = Scheduler(SchedulerConfig(max_running_requests=4), executor, recorder, run_key=b"key")
    for uid in range(1, 13):
        prompt = np.array([1, 2, 3, uid], np.int32).tobytes()
        scheduler.receive([UserMsg(uid, prompt, SamplingParams(max_tokens=40, ignore_eos=True))])
    while scheduler.has_work:
        scheduler.step()
        recorder.flush()
    scheduler.close()
    recorder.close()
    return folder


def test_a_lost_file_is_a_gap_but_the_oldest_may_be_dropped(tmp_path: Path) -> None:
    folder = record_scheduler(tmp_path)
    report = verify(Trace.open(folder))
    assert report.is_whole
    assert "12 gave their pages back" in str(report)
    files = [segment.file.name for segment in Trace.open(folder).process("scheduler-0").segments]
    assert len(files) > 3
    (folder / files[0]).unlink()
    report = verify(Trace.open(folder))
    assert "are gone with 1 old files, dropped by the limit on size" in report.notes[0]
    assert len(report.notes) == 1, "a keyframe of the second file lets its state be checked"
    second = Trace.open(folder).process("scheduler-0").segments[0]
    data, frame = (folder / files[1]).read_bytes(), second.frames[0]
    (folder / files[1]).write_bytes(
        data[: frame.offset] + data[frame.offset + HEADER.size + frame.header.payload_len :]
    )
    with pytest.raises(TraceViolation, match="are missing, and nothing says why"):
        verify(Trace.open(folder))
    (folder / files[1]).write_bytes(data)
    (folder / files[2]).unlink()
    with pytest.raises(TraceViolation, match="are missing, and nothing says why"):
        verify(Trace.open(folder))


def test_a_killed_process_is_a_cut_and_not_a_violation(tmp_path: Path) -> None:
    story = tell()
    del story["scheduler-0"][of_kind(story["scheduler-0"], ev.SchedCommitted, 1) :]
    api = story["api"]
    del api[of_kind(api, ev.MsgReceived, 1)]
    del story["detokenizer"][of_kind(story["detokenizer"], ev.MsgReceived, 1) : -1]
    api[of_kind(api, ev.HttpStreamed)] = ev.HttpStreamed(390, U, C, i8(275), i4(30))
    api[of_kind(api, ev.ReqEnded)] = ev.ReqEnded(400, UID, 0, "error", 500, "worker_lost", 3, 0, 1)
    api[of_kind(api, ev.ProcessExited, 1)] = ev.ProcessLost(395, "scheduler-0", 102, -9)
    report = check(tmp_path, story)
    assert report.notes == ("scheduler-0: the recording stops at event 18: it died (process.lost)",)


def test_everything_killed_at_once_is_a_cut(tmp_path: Path) -> None:
    story = tell()
    for name, count in (("api", 10), ("tokenizer-0", 4), ("scheduler-0", 12), ("detokenizer", 4)):
        del story[name][count:]
    report = check(tmp_path, story)
    assert len(report.notes) == 5
    assert "3 messages have their other end in a part that was cut off" in report.notes
    assert "api: the recording stops at event 10: it was killed, or is still running" in report.notes


def test_what_an_unreadable_message_said_can_t_be_known(tmp_path: Path) -> None:
    story = tell()
    rejected = ev.MsgRejected(255, "detokenizer", "not MessagePack", None, None, 90)
    story["detokenizer"][of_kind(story["detokenizer"], ev.MsgReceived)] = rejected
    assert check(tmp_path, story).is_whole is False


def test_a_rejected_message_was_received(tmp_path: Path) -> None:
    story = tell()
    rejected = ev.MsgRejected(255, "detokenizer", "not MessagePack", "scheduler-0", 1, 90)
    story["detokenizer"][of_kind(story["detokenizer"], ev.MsgReceived)] = rejected
    assert "1 of them rejected as broken" in str(check(tmp_path, story))


@pytest.mark.parametrize("found", [True, False])
def test_a_stop_string_sets_what_counts(tmp_path: Path, found: bool) -> None:
    story = tell()
    scheduler, api = story["scheduler-0"], story["api"]
    api[of_kind(api, ev.ReqEnded)] = ev.ReqEnded(400, UID, 0, "stop", 200, None, 3, 0, 1)
    if found:
        scheduler[of_kind(scheduler, ev.ReqFinished)] = ev.ReqFinished(351, 2, U, C, ["stop"], i4(1))
    place = of_kind(scheduler, ev.ReqReleased) + 1
    scheduler.insert(place, ev.ReqAborting(352, UID, 0, "stop", 1, found))
    assert check(tmp_path, story).is_whole


def test_a_client_that_left_may_know_less_than_the_scheduler(tmp_path: Path) -> None:
    story = tell()
    api = story["api"]
    api[of_kind(api, ev.ReqEnded)] = ev.ReqEnded(300, UID, 0, "abort", 499, None, 3, 0, 1)
    assert check(tmp_path, story).is_whole


def test_nothing_recorded_is_a_violation(tmp_path: Path) -> None:
    with pytest.raises(TraceViolation, match="no process recorded anything"):
        check(tmp_path, {})
