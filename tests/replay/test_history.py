"""The history: every request with its moments and the events that tell them, in one pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from learnsgl.errors import TraceError
from learnsgl.replay.history import read_history, scan_history
from learnsgl.replay.ledger import Ledgers
from learnsgl.trace import events as ev
from learnsgl.trace.pack import pack
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.replay.ledger_world import MS, Ask, World, random_asks
from tests.replay.test_ledger import check_sums, trace_of
from tests.trace.story import UID, Story, tell, write


def test_a_request_and_its_events(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, tell())
    journey = scan_history(trace).journeys[UID]
    req = journey.choices[0]
    assert (journey.route, journey.is_stream, journey.tokenize_ns) == ("/v1/completions", True, (121, 130))
    assert [(letter.kinds, letter.sent.ns, letter.received and letter.received.ns) for letter in journey.letters] == [
        ("TokenizeMsg", 110, 120), ("UserMsg", 140, 150), ("DetokenizeMsg", 252, 255), ("UserReply", 262, 270),
        ("DetokenizeMsg", 353, 355), ("UserReply", 362, 370),
    ]  # fmt: skip
    assert (req.prompt_len, req.limit_len, req.row, req.promised, req.admitted_step) == (3, 5, 0, 5, 1)
    assert (req.steps, req.tokens, req.chunks_ns, req.reason) == ([1, 2], [1, 2], [275, 375], "length")
    there = {(entry.process, entry.number): (entry.event.ns, entry.kind) for entry in trace.events()}
    for place in (journey.received, journey.answered, req.queued, req.admitted, req.finished, req.released, req.ended):
        assert place is not None
        assert there[place.process, place.number] == (place.ns, place.kind)


def test_a_step_and_its_events(tmp_path: Path) -> None:
    first, second = scan_history(trace_of(tmp_path, tell())).steps
    assert (first.keys, first.starts, first.kept) == (((UID, 0),), (0,), (True,))
    assert (first.schedule_ns, first.submit_ns, first.wait_ns) == ((165, 180), (181, 190), (191, 240))
    assert (first.device_ns, first.commit_ns, first.text_ns) == ((195, 235), (241, 250), (256, 260))
    assert {name: place.kind for name, place in second.places.items()} == {
        "schedule": "sched.step", "submit": "batch.submitted", "wait": "batch.collected", "forward": "engine.forward",
        "commit": "sched.committed", "text": "detok.decoded",
    }  # fmt: skip


def test_a_message_can_hold_several_kinds(tmp_path: Path) -> None:
    story = tell()
    sent = next(event for event in story["tokenizer-0"] if isinstance(event, ev.MsgSent))
    sent.kinds = "UserMsg, AbortMsg*2"
    letter = scan_history(trace_of(tmp_path, story)).journeys[UID].letters[1]
    assert letter.names == ("UserMsg", "AbortMsg")


def test_what_never_ran_is_no_figure_but_a_history(tmp_path: Path) -> None:
    trace = World([Ask(20 * MS, [1] * 300)]).write(tmp_path)
    with pytest.raises(TraceError, match="no request ran in this recording"):
        read_history(trace)
    history = scan_history(trace)
    assert history.steps == []
    (req,) = history.journeys[1].choices.values()
    assert req.refused is not None
    assert (req.reason, req.status) == ("error", 400)


def with_second_rank(story: Story) -> Story:
    """A second scheduler that decides alike, a little later, and speaks with nobody."""
    alike = [event for event in story["scheduler-0"] if not isinstance(event, (ev.MsgSent, ev.MsgReceived))]
    second = []
    for event in alike:
        event = type(event)(*(getattr(event, name) for name in event.__struct_fields__))
        event.ns += 1
        second.append(event)
    return story | {"scheduler-1": second}


def test_of_two_ranks_the_first_speaks(tmp_path: Path) -> None:
    one = scan_history(trace_of(tmp_path / "one", tell()))
    two = scan_history(trace_of(tmp_path / "two", with_second_rank(tell())))
    assert two.scheduler == "scheduler-0"
    assert [step.number for step in two.steps] == [1, 2]
    assert two.journeys[UID].choices == one.journeys[UID].choices
    assert Ledgers(one).of(UID) == Ledgers(two).of(UID)


def test_a_packed_recording_tells_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", tell())
    packed = Trace.open(pack(folder, tmp_path / "run.trace.zip"))
    assert scan_history(packed).journeys == scan_history(Trace.open(folder)).journeys


def test_recordings_without_their_beginning_or_end(tmp_path: Path) -> None:
    """Whatever is dropped at either end, what is left is told, and the ledgers' parts still sum."""
    story = World(random_asks(12), num_pages=128, max_model_len=100).story
    last_ns = max(event.ns for told in story.values() for event in told)
    for place, (start, end) in enumerate([(0, 0.5), (0.3, 1), (0.3, 0.6), (0.9, 1), (0, 0.1)]):
        kept = {
            name: [event for event in told if start * last_ns <= event.ns <= end * last_ns]
            for name, told in story.items()
        }
        history = scan_history(trace_of(tmp_path / str(place), {name: told for name, told in kept.items() if told}))
        for item in Ledgers(history).all():
            check_sums(item)


def test_the_world_with_choices_is_a_true_recording(tmp_path: Path) -> None:
    assert "digests" in str(verify(World([Ask(20 * MS, [1] * 9, 5, n=3)]).write(tmp_path)))
