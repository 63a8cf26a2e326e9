"""Moving about in a recording: moments, stepping, messages, what the processes do, and recordings that aren't whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from learnsgl.config import TraceLevel
from learnsgl.core import ReqKey, Stage
from learnsgl.errors import FolderError, OptionError, TraceError
from learnsgl.replay.activity import DeviceStage, Status, is_about
from learnsgl.replay.replay import Replay
from learnsgl.replay.scheduler_view import PageUse, RunningRequest, WaitingRequest
from learnsgl.replay.server_state import ServerState
from learnsgl.trace import events as ev
from learnsgl.trace.manifest import create_run
from learnsgl.trace.pack import pack
from learnsgl.trace.reader import Trace
from learnsgl.trace.state import digest_of
from tests.replay.recorded import NAME, digests, record, run
from tests.trace.story import UID, Story, at_level, tell, write


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    return Replay.open(write(tmp_path, tell()))


def ns(replay: Replay, at: int) -> ServerState:
    return replay.at(ns=at)


# ---------------------------------------------------------------- moments


def test_what_there_is(replay: Replay) -> None:
    assert (replay.start_ns, replay.end_ns, replay.level) == (5, 700, "full")
    assert (replay.steps, replay.uids, replay.schedulers) == (range(1, 3), (UID,), (NAME,))
    assert replay.has_ended


def test_a_moment_is_named_in_four_ways(replay: Replay) -> None:
    by_step = replay.at(step=2)
    assert (by_step.moment.ns, by_step.moment.kind) == (280, "sched.step")
    by_event = replay.at(event=(NAME, by_step.moment.number or 0))
    by_ns = replay.at(ns=280)
    by_time = replay.at(time_s=275e-9)
    assert by_step.moment == by_event.moment == by_ns.moment == by_time.moment
    assert replay.start().moment.positions == {"api": 0, "tokenizer-0": 0, NAME: 0, "detokenizer": 0} | dict.fromkeys(
        replay.trace.processes, 1
    )
    assert replay.end().moment == replay.at(time_s=replay.duration_s).moment


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ({}, "name the moment in one way"),
        ({"ns": 10, "step": 1}, "name the moment in one way"),
        ({"ns": 4}, r"4 ns lies outside the recording: its first event is at 0 s \(5 ns\)"),
        ({"ns": 701}, "701 ns lies outside"),
        ({"time_s": -1.0}, "-1.0 s lies outside"),
        ({"time_s": float("nan")}, "nan s lies outside"),
        ({"time_s": float("inf")}, "inf s lies outside"),
        ({"step": 0}, "step 0 isn't in the recording; the steps in it: 1 to 2"),
        ({"step": 3}, "step 3 isn't in the recording"),
        ({"event": ("nobody", 1)}, "no process is called 'nobody'; the recording has: api, tokenizer-0"),
        ({"event": (NAME, 24)}, "scheduler-0 has no event 24 in the recording; the events in it: 1 to 23"),
        ({"event": (NAME, 0)}, "has no event 0"),
    ],
)
def test_a_moment_that_is_not_there(replay: Replay, moment: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        replay.at(**moment)  # type: ignore[arg-type]


def test_the_state_of_a_request_through_its_life(replay: Replay) -> None:
    assert ns(replay, 159).request(UID) is None
    assert ns(replay, 165).queue == (WaitingRequest(ReqKey(UID), 1, 3, 5),)
    admitted = ns(replay, 171).request(UID)
    assert isinstance(admitted, RunningRequest)
    assert (admitted.stage, admitted.pages, admitted.progress) == (Stage.PREFILL, (), 0.0)
    decoding = ns(replay, 300).request(UID)
    assert decoding == RunningRequest(
        ReqKey(UID), 0, Stage.DECODE, prompt_len=3, cached_len=0, scheduled_len=4, committed_len=3, num_output=1,
        limit_len=5, num_in_flight=1, node=0, pages=(0, 1, 2, 3),
    )  # fmt: skip
    assert decoding.progress == 4 / 5
    assert ns(replay, 300).rows == (ReqKey(UID), None, None, None)
    assert ns(replay, 300).free_pages == tuple(range(4, 16))
    finished = ns(replay, 351).request(UID)
    assert isinstance(finished, RunningRequest)
    assert finished.stage is Stage.FINISHED
    assert ns(replay, 352).running == ()
    assert ns(replay, 352).free_pages == tuple(range(16))


def test_who_holds_a_page(tmp_path: Path) -> None:
    recorded = run(20)
    replay = Replay.open(record(tmp_path, recorded.events))
    moved = next(n for n, event in enumerate(recorded.events, start=1) if isinstance(event, ev.CacheMoved))
    state = replay.at(event=(NAME, moved))
    assert state.running is not None
    assert state.tree is not None
    uses = set()
    for number in range(48):
        holders = state.page(number)
        assert holders is not None
        rows = tuple(request.row for request in state.running if number in (request.pages or ()))
        nodes = tuple(node.node for node in state.tree.values() if number in node.pages)
        assert (holders.rows, holders.nodes, holders.num_refs) == (rows, nodes, len(rows) + len(nodes))
        assert (holders.use is PageUse.FREE) == (number in (state.free_pages or ()))
        assert (holders.use is PageUse.SHARED) == (holders.num_refs > 1)
        uses.add(holders.use)
    assert {PageUse.SHARED, PageUse.FREE} <= uses
    root = state.tree[0]
    assert all(state.tree[child].parent == 0 for child in root.children)
    assert sum(len(node.children) for node in state.tree.values()) == len(state.tree) - 1
    with pytest.raises(OptionError, match=r"page 48 was asked for; scheduler-0 has pages 0 to 47"):
        state.page(48)


# ---------------------------------------------------------------- stepping


def walk(replay: Replay) -> list[tuple[str | None, int | None]]:
    state: ServerState | None = replay.start()
    while state is not None and (before := replay.previous_event(state)) is not None:
        state = before
    found = []
    while state is not None:
        found.append((state.moment.process, state.moment.number))
        state = replay.next_event(state)
    return found


def test_stepping_by_event_follows_the_order_of_the_trace(replay: Replay) -> None:
    order = [(entry.process, entry.number) for entry in replay.trace.events()]
    assert walk(replay) == order
    state: ServerState | None = replay.end()
    backward = []
    while state is not None:
        backward.append((state.moment.process, state.moment.number))
        state = replay.previous_event(state)
    assert backward == order[::-1]


def test_events_that_are_told_late_stay_behind_those_before_them(tmp_path: Path) -> None:
    story = tell()
    story[NAME][5:5] = [ev.ProcessPhase(12, "warm_up", 11), ev.ProcessPhase(13, "more", 12)]  # after one at 150
    replay = Replay.open(write(tmp_path, story, frame_events=3))
    walked = walk(replay)
    assert sorted(walked) == sorted((entry.process, entry.number) for entry in replay.trace.events())
    for name in replay.trace.processes:
        numbers = [number for process, number in walked if process == name]
        assert numbers == list(range(1, len(numbers) + 1))
    assert ns(replay, 100).moment.positions[NAME] == 3


def test_stepping_by_step(replay: Replay) -> None:
    state = replay.next_step(replay.start())
    assert state is not None
    assert state.moment == replay.at(step=1).moment
    after = replay.next_step(state)
    assert after is not None
    assert after.moment == replay.at(step=2).moment
    assert replay.next_step(after) is None
    back = replay.previous_step(after)
    assert back is not None
    assert back.moment == state.moment
    assert replay.previous_step(state) is None
    between = replay.previous_step(ns(replay, 200))
    assert between is not None
    assert between.moment == state.moment


def test_stepping_by_request_visits_every_event_that_names_it(replay: Replay) -> None:
    wanted = [(entry.process, entry.number) for entry in replay.trace.events() if is_about(entry, UID)]
    found, state = [], replay.next_of(replay.start(), UID)
    while state is not None:
        last = state
        found.append((state.moment.process, state.moment.number))
        state = replay.next_of(state, UID)
    assert found == wanted
    before = replay.previous_of(last, UID)
    assert before is not None
    assert (before.moment.process, before.moment.number) == wanted[-2]
    assert replay.next_of(replay.start(), 999) is None


def test_every_step_is_found(tmp_path: Path) -> None:
    recorded = run(20)
    replay = Replay.open(record(tmp_path, recorded.events))
    numbers = {e.step: n for n, e in enumerate(recorded.events, start=1) if isinstance(e, ev.SchedStep)}
    assert list(replay.steps) == list(numbers)
    assert {step: replay.at(step=step).moment.number for step in replay.steps} == numbers


# ---------------------------------------------------------------- messages


def brute_force(trace: Trace, state: ServerState) -> list[tuple[str, str, int]]:
    """Sent and not received, by the events alone."""
    flying: dict[tuple[str, str, int], int] = {}
    for entry in trace.events():
        if entry.number > state.moment.positions[entry.process]:
            continue
        match entry.event:
            case ev.MsgSent(channel=channel, number=number):
                flying[entry.process, channel, number] = entry.event.ns
            case ev.MsgReceived(sender=sender, channel=channel, number=number):
                flying.pop((sender, channel, number), None)
    return sorted(flying, key=lambda key: (flying[key], key[:2]))


def all_states(replay: Replay) -> list[ServerState]:
    return [replay.at(event=(entry.process, entry.number)) for entry in replay.trace.events()]


def test_messages_on_their_way_at_every_event(replay: Replay) -> None:
    num_found = 0
    for state in all_states(replay):
        assert state.messages is not None
        expected = brute_force(replay.trace, state)
        assert [(m.sender, m.channel, m.number) for m in state.messages] == expected
        num_found += len(expected)
    assert num_found == 6
    (message,) = ns(replay, 115).messages or ()
    assert (message.kinds, message.uids, message.sent_ns) == ("TokenizeMsg", (UID,), 110)
    assert (message.receiver, message.num_bytes) == ("tokenizer-0", 40)


def test_a_message_that_never_arrives_is_on_its_way_for_ever(tmp_path: Path) -> None:
    story = tell()
    lost = next(event for event in story["detokenizer"] if isinstance(event, ev.MsgReceived))
    story["detokenizer"].remove(lost)
    replay = Replay.open(write(tmp_path, story))
    (message,) = replay.end().messages or ()
    assert (message.sender, message.channel, message.number) == (NAME, "detokenizer", 1)
    assert message.receiver is None
    for state in all_states(replay):
        assert [(m.sender, m.channel, m.number) for m in state.messages or ()] == brute_force(replay.trace, state)


def test_a_message_whose_sending_is_not_recorded(tmp_path: Path) -> None:
    story = tell()
    story["api"] = [event for event in story["api"] if not isinstance(event, ev.MsgSent)]
    (message,) = Replay.open(write(tmp_path, story)).at(ns=115).messages or ()
    assert (message.sender, message.sent_ns, message.kinds, message.uids) == ("api", 110, None, None)


def test_a_rejected_message_has_arrived(tmp_path: Path) -> None:
    story = tell()
    place = next(n for n, event in enumerate(story["detokenizer"]) if isinstance(event, ev.MsgReceived))
    story["detokenizer"][place] = ev.MsgRejected(255, "detokenizer", "not MessagePack", NAME, 1, 90)
    replay = Replay.open(write(tmp_path, story))
    assert [m.channel for m in ns(replay, 253).messages or ()] == ["detokenizer"]
    assert ns(replay, 256).messages == ()


# ---------------------------------------------------------------- what the processes do


@pytest.mark.parametrize(
    ("at", "process", "status", "doing"),
    [
        (125, "tokenizer-0", Status.WORKING, f"tokenizes request {UID}"),
        (176, NAME, Status.WORKING, "schedules step 1"),
        (185, NAME, Status.WORKING, "submits step 1"),
        (200, NAME, Status.WAITING, "waits for step 1"),
        (245, NAME, Status.WORKING, "takes over the tokens of step 1"),
        (252, NAME, Status.IDLE, "after msg.sent"),
        (258, "detokenizer", Status.WORKING, "turns the tokens of step 1 into text"),
        (400, "detokenizer", Status.IDLE, "after msg.sent"),
        (560, NAME, Status.ENDED, "has ended in order"),
        (5, "tokenizer-0", Status.NOT_STARTED, "has recorded nothing yet"),
    ],
)
def test_what_a_process_does(replay: Replay, at: int, process: str, status: Status, doing: str) -> None:
    state = replay.at(event=("api", 1)) if at == 5 else ns(replay, at)
    activity = state.process(process)
    assert (activity.status, activity.doing) == (status, doing)


def test_since_when_and_for_whom(replay: Replay) -> None:
    activity = ns(replay, 125).process("tokenizer-0")
    assert (activity.since_ns, activity.uids, activity.role) == (121, (UID,), "tokenizer")
    assert ns(replay, 400).process("detokenizer").since_ns == 362
    with pytest.raises(OptionError, match="no process is called 'x'; the recording has: api"):
        replay.end().process("x")


def test_start_up(tmp_path: Path) -> None:
    story = tell()
    story[NAME][2:2] = [ev.ProcessPhase(16, "load_weights", 8)]
    replay = Replay.open(write(tmp_path, story))
    activity = ns(replay, 12).process(NAME)
    assert (activity.status, activity.doing) == (Status.STARTING, "starts up: load_weights")


@pytest.mark.parametrize(
    ("at", "stage"),
    [
        (180, DeviceStage.QUEUED),
        (200, DeviceStage.FORWARD),
        (225, DeviceStage.SAMPLING),
        (245, DeviceStage.DONE),
    ],
)
def test_where_a_step_stands(replay: Replay, at: int, stage: DeviceStage) -> None:
    (step,) = ns(replay, at).steps_in_flight
    assert (step.step, step.stage, step.uids, step.num_prefill, step.num_tokens) == (1, stage, (UID,), 1, 3)
    assert (ns(replay, 179).steps_in_flight, ns(replay, 250).steps_in_flight) == ((), ())


def test_steps_in_flight_with_overlap(tmp_path: Path) -> None:
    recorded = run(20)
    replay = Replay.open(record(tmp_path, recorded.events))
    flying: list[int] = []
    most = 0
    for number, event in enumerate(recorded.events, start=1):
        if isinstance(event, ev.SchedStep):
            flying.append(event.step)
        elif isinstance(event, ev.SchedCommitted):
            flying.remove(event.step)
        most = max(most, len(flying))
        assert [step.step for step in replay.at(event=(NAME, number)).steps_in_flight] == flying
    assert most == 2


# ---------------------------------------------------------------- recordings that aren't whole


def kill_scheduler(story: Story) -> Story:
    del story[NAME][13:]
    for name in ("tokenizer-0", "detokenizer"):
        story[name] = [event for event in story[name] if event.ns < 300]
    api = story["api"]
    story["api"] = [*(event for event in api if event.ns < 300), ev.ProcessLost(310, NAME, 102, -9), api[-1]]
    return story


def test_a_killed_process(tmp_path: Path) -> None:
    replay = Replay.open(write(tmp_path, kill_scheduler(tell())))
    assert not replay.has_whole_end
    assert not replay.has_ended
    silent = ns(replay, 305).process(NAME)
    assert (silent.status, silent.doing) == (Status.SILENT, "nothing is recorded after msg.sent")
    killed = replay.end().process(NAME)
    assert (killed.status, killed.doing, killed.since_ns) == (Status.KILLED, "died with exit code -9", 310)
    assert replay.end().request(UID) is not None, "its last state is still there"


def test_a_file_that_was_torn(tmp_path: Path) -> None:
    folder = write(tmp_path, tell())
    path = folder / f"{NAME}.1.trace"
    path.write_bytes(path.read_bytes()[:-7])
    replay = Replay.open(folder)
    assert replay.end().moment.positions[NAME] < 23
    assert replay.end().process(NAME).status is Status.SILENT
    pack(folder, tmp_path / "torn.trace.zip")
    packed = Replay.open(tmp_path / "torn.trace.zip")
    assert packed.has_ended, "nothing is added to a packed file"
    assert packed.end().moment.positions == replay.end().moment.positions


KILLED = """
import os, signal, sys
from pathlib import Path
from learnsgl.bench.recorded_load import RecordedLoad, Shape
load = RecordedLoad(Path(sys.argv[1]), Shape(num_running=4, num_nodes=20, prompt_len=40, output_len=8, page_size=4))
while load.num_events < 3000:
    load.step()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_that_was_killed_by_the_system(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    replay = Replay.open(tmp_path)
    state = replay.end()
    assert {activity.status for activity in state.processes} == {Status.SILENT}
    assert 1 <= len(state.running or ()) <= 4, "what ran when the last frame was written"
    last = replay.trace.process(NAME).last
    expected = digests([entry.event for entry in replay.trace.events(NAME)])
    for number in (last, last // 2, last - 1, 30):
        view = replay.at(event=(NAME, number)).scheduler
        assert view is not None
        assert digest_of(view.folded) == expected[number]


def test_a_packed_file_is_the_same_recording(tmp_path: Path) -> None:
    recorded = run(20)
    folder = record(tmp_path, recorded.events)
    pack(folder, tmp_path / "x.trace.zip")
    one, other = Replay.open(folder), Replay.open(tmp_path / "x.trace.zip")
    for number in range(1, len(recorded.events) + 1, 17):
        state, packed = one.at(event=(NAME, number)), other.at(event=(NAME, number))
        assert (state.running, state.queue, state.moment) == (packed.running, packed.queue, packed.moment)
        assert dict(state.tree or {}) == dict(packed.tree or {})


def test_a_folder_that_grows(tmp_path: Path) -> None:
    recorded = run(20)
    events = list(recorded.events)
    folder = record(tmp_path / "part", events[:200], frame_events=7)
    replay = Replay.open(folder)
    first = replay.end()
    assert (first.moment.number, replay.has_ended, replay.refresh()) == (200, False, False)
    assert len(replay.uids) > 1
    whole = record(tmp_path / "whole", events, frame_events=7)
    (folder / f"{NAME}.1.trace").write_bytes((whole / f"{NAME}.1.trace").read_bytes())
    assert replay.refresh()
    assert replay.end().moment.number == len(events)
    assert replay.uids == tuple(sorted({e.uid for e in events if isinstance(e, ev.ReqQueued)}))
    following = replay.next_event(first)
    assert following is not None
    assert following.moment.number == 201
    fresh = Replay.open(whole)
    for number in range(150, len(events), 31):
        assert replay.at(event=(NAME, number)).running == fresh.at(event=(NAME, number)).running


def test_level_steps_knows_requests_but_no_pages(tmp_path: Path) -> None:
    recorded = run(40)
    full = Replay.open(record(tmp_path / "full", recorded.events))
    steps = Replay.open(record(tmp_path / "steps", recorded.events, TraceLevel.STEPS))
    for step in full.steps:
        state, other = steps.at(step=step), full.at(step=step)
        assert state.queue == other.queue
        assert state.running is not None
        assert [(r.key, r.row, r.stage, r.scheduled_len, r.committed_len, r.num_output) for r in state.running] == [
            (r.key, r.row, r.stage, r.scheduled_len, r.committed_len, r.num_output) for r in other.running or ()
        ]
        assert [s.step for s in state.steps_in_flight] == [s.step for s in other.steps_in_flight]
    assert (state.tree, state.free_pages, state.page(0), state.messages) == (None,) * 4
    assert {(r.pages, r.node) for r in state.running} == {(None, None)}


def test_level_steps_without_its_beginning_is_unknown(tmp_path: Path) -> None:
    story = at_level(tell(), TraceLevel.STEPS)
    story[NAME][1] = ev.TraceBegin(6, "steps", True)
    replay = Replay.open(write(tmp_path, story, TraceLevel.STEPS))
    assert replay.end().scheduler is None


def test_two_ranks(tmp_path: Path) -> None:
    story = tell()
    story["scheduler-1"] = [
        ev.ProcessStarted(5, "scheduler-1", "scheduler", 110, 1), *story[NAME][1:],
    ]  # fmt: skip
    state = Replay.open(write(tmp_path, story)).at(ns=300)
    assert [view.name for view in state.schedulers] == [NAME, "scheduler-1"]
    assert state.schedulers[0].running == state.schedulers[1].running == state.running


def test_a_process_that_recorded_nothing(tmp_path: Path) -> None:
    story = tell()
    story["detokenizer"] = []
    replay = Replay.open(write(tmp_path, story))
    assert "detokenizer" not in replay.trace.processes
    assert replay.at(ns=253).messages


def test_no_scheduler_at_all(tmp_path: Path) -> None:
    story = tell()
    replay = Replay.open(write(tmp_path, {"api": story["api"]}))
    state = replay.end()
    assert (state.scheduler, state.queue, state.steps_in_flight, len(replay.steps)) == (None, None, (), 0)
    with pytest.raises(OptionError, match="the steps in it: none"):
        replay.at(step=1)


def test_events_of_a_newer_version_are_stepped_over(tmp_path: Path) -> None:
    class Strange(ev.Event, tag="strange.kind"):
        """A kind that this version doesn't know."""

    story = tell()
    story["api"].insert(8, Strange(105))
    replay = Replay.open(write(tmp_path, story))
    state = replay.at(event=("api", 9))
    assert (state.moment.number, state.moment.kind) == (9, None)
    assert state.process("api").doing == "after an event of an unknown kind"
    following = replay.next_event(state)
    assert following is not None
    assert following.moment.kind == "msg.sent"
    assert ns(replay, 115).messages


def test_nothing_to_replay(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="not a single event was recorded"):
        Replay.open(create_run(tmp_path, {}, ["learnsgl"]))
    with pytest.raises(FolderError):
        Replay.open(tmp_path / "gone")


def test_admissions_of_several_choices(tmp_path: Path) -> None:
    story = tell()
    place = next(n for n, event in enumerate(story[NAME]) if isinstance(event, ev.SchedAdmitted))
    story[NAME].insert(place, ev.ReqQueued(161, UID, 1, 2, 3, 5, None))
    state = Replay.open(write(tmp_path, story)).at(ns=200)
    assert state.request(UID, 1) == WaitingRequest(ReqKey(UID, 1), 2, 3, 5)
    assert isinstance(state.request(UID), RunningRequest)
