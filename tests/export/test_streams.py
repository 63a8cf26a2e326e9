"""What is put together while events stream by equals what is read from the whole: lives, pages, steps, messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from learnsgl.export.counters import FREE_PAGES, SchedulerCounters
from learnsgl.export.lives import LifeStream, _Numbers
from learnsgl.export.messages import MessagePairs
from learnsgl.export.pages import CachePages
from learnsgl.export.steps import MAX_OPEN, StepStream
from learnsgl.trace import events as ev
from learnsgl.trace.fold import Fold
from learnsgl.trace.life import RequestLife
from learnsgl.trace.lives import RequestRecord, requests
from learnsgl.trace.reader import Entry, Trace
from tests.export.recordings import late, scheduled
from tests.trace.story import UID, C, U, i4, i8, tell, write


def streamed(trace: Trace) -> tuple[list[RequestRecord], list[RequestRecord]]:
    """Records of requests that were over while events came, and of those at the end."""
    lives = LifeStream(trace)
    over = [record for entry in trace.events() for record in lives.take(entry)]
    return over, lives.rest()


def by_key(lives: list[RequestLife]) -> dict[object, tuple[object, ...]]:
    return {
        life.key: (
            life.stages, life.reason, life.status, life.ttft_s, life.tpot_s, life.prompt_tokens, life.cached_tokens,
            life.generated_tokens, life.released_ns, life.answered_ns,
        )
        for life in lives
    }  # fmt: skip


def test_lives_are_those_of_the_whole_trace(trace: Trace) -> None:
    over, rest = streamed(trace)
    lives = [life for record in over + rest for life in record.sorted_lives()]
    assert len(lives) == len(requests(trace))
    assert by_key(lives) == by_key(requests(trace))


def test_a_request_is_told_when_it_is_over(story: Trace, scheduled: Trace) -> None:
    over, rest = streamed(story)
    assert [record.uid for record in over] == [UID]
    assert not rest
    assert over[0].route == "/v1/completions"
    over, rest = streamed(scheduled)
    assert (len(over), len(rest)) == (40, 0)


def test_what_comes_after_the_end_begins_no_new_request(tmp_path: Path) -> None:
    story = tell()
    story["detokenizer"].insert(-1, ev.DetokDecoded(450, 440, 3, U, C, i4(0)))
    over, rest = streamed(Trace.open(write(tmp_path, story)))
    assert [record.uid for record in over + rest] == [UID]


def test_a_client_that_left_ends_its_request(tmp_path: Path) -> None:
    story = tell()
    story["api"][-6:-5] = [ev.HttpDisconnected(401, UID)]
    assert isinstance(story["api"][-5], ev.ProcessStopping)
    over, rest = streamed(Trace.open(write(tmp_path, story)))
    assert [record.client_gone for record in over] == [True]
    assert not rest


def test_numbers_are_a_set() -> None:
    numbers = _Numbers()
    for number in (3, 1, 7):
        numbers.add(number)
    assert [number for number in range(-1, 9) if number in numbers] == [1, 3, 7]
    numbers.add(2)
    assert [number for number in range(-1, 9) if number in numbers] == [1, 2, 3, 7]


def compare_pages(trace: Trace, *, from_start: bool) -> int:
    """Hold the counts against the fold after each event; returns how often both were known."""
    pages, fold = CachePages(from_start=from_start), Fold(from_start=from_start)
    num_known = 0
    for entry in trace.events("scheduler-0"):
        pages.apply(entry.event)
        fold.apply(entry.event)
        assert pages.is_known == fold.is_known
        if fold.is_known:
            nodes = fold.state.nodes.values()
            assert pages.num_locked == sum(len(node.pages) for node in nodes if node.lock)
            assert pages.num_evictable == sum(len(node.pages) for node in nodes if not node.lock)
            num_known += 1
    return num_known


def test_pages_are_those_of_the_fold(scheduled: Trace) -> None:
    kinds = {entry.kind for entry in scheduled.events()}
    assert kinds >= {"cache.split", "cache.moved", "cache.evicted", "cache.inserted", "cache.locked", "cache.touched"}
    assert compare_pages(scheduled, from_start=True) == scheduled.num_events


def test_free_pages_are_those_of_the_fold_even_when_idle(scheduled: Trace) -> None:
    counters, fold = SchedulerCounters(from_start=True, has_cache=True), Fold()
    num_idle = 0
    for entry in scheduled.events("scheduler-0"):
        fold.apply(entry.event)
        samples = dict(counters.take(entry.event))
        if FREE_PAGES in samples:
            assert samples[FREE_PAGES] == (fold.state.refs == 0).sum()
            num_idle += isinstance(entry.event, ev.SchedIdle)
    assert num_idle > 0


def test_pages_are_known_from_the_first_keyframe_on(tmp_path: Path) -> None:
    trace = Trace.open(late(tmp_path))
    assert trace.begins_late("scheduler-0")
    assert 0 < compare_pages(trace, from_start=False) < trace.num_events


@pytest.mark.parametrize(
    "event",
    [
        ev.TraceDropped(1, "disk", 1, 2),
        ev.CacheLocked(1, 99, 1),
        ev.CacheLocked(1, 1, -1),
        ev.CacheEvicted(1, i8(99), i4(1)),
        ev.CacheMoved(1, 3, 1),
        ev.TraceBegin(1, "full", True),
    ],
    ids=lambda event: type(event).__name__,
)
def test_pages_are_unknown_after_a_gap_or_a_contradiction(event: ev.Event) -> None:
    pages = CachePages()
    pages.apply(ev.CacheInserted(1, 1, 0, i4(4, 5), 1, 0, 0))
    assert (pages.is_known, pages.num_evictable, pages.num_locked) == (True, 2, 0)
    pages.apply(event)
    assert not pages.is_known
    pages.apply(ev.CacheInserted(1, 2, 0, i4(6), 1, 0, 0))
    assert not pages.is_known


def test_steps_are_whole_when_they_are_committed(story: Trace) -> None:
    steps = StepStream()
    over = [step for entry in story.events() if (step := steps.take(entry)) is not None]
    assert [(step.number, step.kind, step.num_tokens, step.num_kept) for step in over] == [
        (1, "prefill", 3, 1), (2, "decode", 1, 1)
    ]  # fmt: skip
    assert over[0].schedule_ns == (165, 180)
    assert (over[0].submit_ns, over[0].wait_ns, over[0].commit_ns) == ((181, 190), (191, 240), (241, 250))
    assert (over[0].forward_ns, over[0].sample_ns) == ((195, 220), (221, 235))
    assert not steps.rest()


def test_steps_that_never_end_are_given_up() -> None:
    steps = StepStream()
    given = []
    for number in range(1, MAX_OPEN + 3):
        event = ev.SchedStep(number, number, number, U, C, i4(0), i4(1), 0, 0, 1)
        given.append(steps.take(Entry("scheduler-0", number, event)))
    assert [step.number for step in given if step is not None] == [1, 2]
    assert len(steps.rest()) == MAX_OPEN
    committed = ev.SchedCommitted(9, 1, 8, U, C, b"\x01")
    assert steps.take(Entry("scheduler-0", 99, committed)) is None


def test_messages_without_one_end(story: Trace) -> None:
    pairs = MessagePairs()
    entries = list(story.events())
    sent = next(entry for entry in entries if isinstance(entry.event, ev.MsgSent))
    received = next(entry for entry in entries if isinstance(entry.event, ev.MsgReceived))
    lonely = pairs.received(received, received.event)
    assert (lonely.kinds, lonely.uids, lonely.receiver) == (None, (), "tokenizer-0")
    assert lonely.name == "message to tokenizer-0"
    pairs.sent(sent, sent.event)
    (left,) = pairs.rest()
    assert (left.kinds, left.receiver, left.received_ns) == ("TokenizeMsg", None, None)
    assert not pairs.rest()


def test_a_long_trace_keeps_little(tmp_path: Path) -> None:
    """However many requests a trace has, few of them are open at once."""
    trace = Trace.open(scheduled(tmp_path, num_requests=80))
    lives, most = LifeStream(trace), 0
    for entry in trace.events():
        lives.take(entry)
        most = max(most, len(lives._reader.records))
    assert most < 40
