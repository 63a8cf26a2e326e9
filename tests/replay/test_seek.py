"""The state after any event is the one that the live objects had, however it is reached."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from learnsgl.errors import TraceViolation
from learnsgl.replay import seek
from learnsgl.replay.replay import Replay
from learnsgl.trace import events as ev
from learnsgl.trace.index import Frame
from learnsgl.trace.reader import Trace
from learnsgl.trace.state import digest_of
from tests.replay.recorded import NAME, Recorded, digests, parts, record, run, same
from tests.trace.test_verify import record_scheduler


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return run()


@pytest.fixture(scope="module")
def expected(recorded: Recorded) -> list[int]:
    return digests(recorded.events)


def digest_at(replay: Replay, number: int) -> int:
    view = replay.at(event=(NAME, number)).scheduler
    assert view is not None
    return digest_of(view.folded)


def test_the_state_is_that_of_the_live_objects(tmp_path: Path, recorded: Recorded) -> None:
    replay = Replay.open(record(tmp_path, recorded.events))
    assert len(recorded.live) > 50
    for number, live in recorded.live.items():
        view = replay.at(event=(NAME, number)).scheduler
        assert view is not None
        assert same(parts(view.folded), live)


@pytest.mark.parametrize(("spacing", "num_bytes"), [(10, 1 << 30), (25, 60_000)])
def test_every_event_in_random_order_is_as_folded_from_the_start(
    tmp_path: Path,
    recorded: Recorded,
    expected: list[int],
    monkeypatch: pytest.MonkeyPatch,
    spacing: int,
    num_bytes: int,
) -> None:
    monkeypatch.setattr(seek, "SPACING", spacing)
    monkeypatch.setattr(seek, "MAX_CHECKPOINT_BYTES", num_bytes)
    replay = Replay.open(record(tmp_path, recorded.events))
    numbers = list(range(1, len(recorded.events) + 1))
    random.Random(spacing).shuffle(numbers)
    assert [digest_at(replay, number) for number in numbers] == [expected[number] for number in numbers]


def test_checkpoints_are_bounded_and_the_least_recently_used_go(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seek, "SPACING", 10)
    replay = Replay.open(record(tmp_path, recorded.events))
    numbers = range(1, len(recorded.events), 25)
    for number in numbers:
        replay.at(event=(NAME, number))
    unbounded = replay._seekers[NAME].num_checkpoints
    size = replay._seekers[NAME]._num_bytes // unbounded
    monkeypatch.setattr(seek, "MAX_CHECKPOINT_BYTES", 4 * size)
    replay = Replay.open(record(tmp_path / "again", recorded.events))
    for number in numbers:
        replay.at(event=(NAME, number))
    assert 2 <= replay._seekers[NAME].num_checkpoints <= 6 < unbounded


def count_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First numbers of the frames that are decoded from now on."""
    decoded: list[int] = []
    original = Trace.frame_events

    def counted(trace: Trace, frame: Frame) -> list[tuple[int, ev.Event]]:
        decoded.append(frame.header.first)
        return original(trace, frame)

    monkeypatch.setattr(Trace, "frame_events", counted)
    return decoded


def test_the_first_visit_enters_at_the_last_whole_keyframe(
    tmp_path: Path, recorded: Recorded, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seek, "SPACING", 10)
    starts = [n for n, e in enumerate(recorded.events, start=1) if isinstance(e, ev.TraceKeyframe) and e.index == 0]
    assert len(starts) >= 3
    folder = record(tmp_path, recorded.events)
    for keyframe, following in itertools.pairwise(starts):
        seeker = Replay.open(folder)._seekers[NAME]
        with monkeypatch.context() as patched:
            decoded = count_frames(patched)
            assert digest_of(seeker.fold_at(following - 1).state) == expected[following - 1]
        assert not [first for first in decoded if first + 16 <= keyframe], "nothing before the keyframe is decoded"


def test_opening_decodes_the_last_frame_of_each_process_at_most(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path, recorded.events)
    decoded = count_frames(monkeypatch)
    Replay.open(folder)
    assert len(decoded) <= 1


def test_a_keyframe_in_slices_is_no_entrance(tmp_path: Path, recorded: Recorded, expected: list[int]) -> None:
    """A keyframe with another event between its slices tells of several moments; the state is still right."""
    events: list[ev.Event] = []
    for event in recorded.events:
        events.append(event)
        if isinstance(event, ev.TraceKeyframe) and event.index == 2:
            events.append(ev.MsgReceived(event.ns, "x", "scheduler", 1, 0, 0))
    replay = Replay.open(record(tmp_path, events))
    assert digest_at(replay, len(events)) == expected[-1]
    assert replay._seekers[NAME].num_checkpoints


def test_a_recording_that_contradicts_itself_is_named(tmp_path: Path, recorded: Recorded) -> None:
    events = list(recorded.events)
    place = next(n for n, event in enumerate(events) if n > 100 and isinstance(event, ev.PageAllocated))
    del events[place]
    replay = Replay.open(record(tmp_path, events))
    with pytest.raises(TraceViolation, match=rf"{NAME}, event \d+ \("):
        [replay.at(event=(NAME, number)) for number in range(place, place + 40)]
    assert replay.at(event=(NAME, place - 20)).scheduler, "what comes before is still there"


def test_after_lost_events_the_state_is_unknown_until_a_keyframe(
    tmp_path: Path, recorded: Recorded, expected: list[int]
) -> None:
    starts = [n for n, e in enumerate(recorded.events, start=1) if isinstance(e, ev.TraceKeyframe) and e.index == 0]
    hole, keyframe = starts[1] - 10, starts[1]
    events = list(recorded.events)
    events[hole - 1] = ev.TraceDropped(events[hole - 1].ns, "a full disk", hole - 5, hole - 1)
    replay = Replay.open(record(tmp_path, events))
    assert digest_at(replay, hole - 1) == expected[hole - 1]
    for number in (hole, keyframe - 1, keyframe):
        state = replay.at(event=(NAME, number))
        assert (state.scheduler, state.queue, state.running, state.tree, state.page(3)) == (None,) * 5
    assert digest_at(replay, keyframe + 7) == expected[keyframe + 7]
    assert digest_at(replay, hole - 2) == expected[hole - 2]


def test_dropped_files(tmp_path: Path) -> None:
    folder = record_scheduler(tmp_path)
    whole = Replay.open(folder)
    numbers = range(1, whole.trace.process(NAME).last + 1, 9)
    expected = {number: digest_at(whole, number) for number in numbers}
    files = [segment.file.name for segment in whole.trace.process(NAME).segments]
    (folder / files[0]).unlink()
    (folder / files[1]).unlink()
    replay = Replay.open(folder)
    first = replay.trace.process(NAME).first
    assert first > 1
    known = [number for number in numbers if number >= first and replay.at(event=(NAME, number)).scheduler]
    assert known[0] < first + 60, "every file begins with a whole keyframe"
    assert known == [number for number in numbers if number >= known[0]]
    assert all(digest_at(replay, number) == expected[number] for number in known)


def test_files_that_are_dropped_while_the_replay_is_open(tmp_path: Path) -> None:
    folder = record_scheduler(tmp_path)
    replay = Replay.open(folder)
    last = replay.trace.process(NAME).last
    before = digest_at(replay, last)
    (folder / replay.trace.process(NAME).segments[0].file.name).unlink()
    assert replay.refresh()
    assert digest_at(replay, last) == before
    early = replay.at(event=(NAME, replay.trace.process(NAME).first))
    assert early.scheduler is None
