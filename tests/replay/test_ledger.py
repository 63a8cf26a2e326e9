"""The ledger: its parts sum exactly, each cause is found where it is, and every kind of ending is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnsgl.config import TraceLevel
from learnsgl.errors import OptionError
from learnsgl.replay.history import History, scan_history
from learnsgl.replay.ledger import Cause, Ledger, Ledgers, Measure, ledger, uid_ranges
from learnsgl.replay.ledger_command import bar, print_ledger
from learnsgl.replay.ledger_spans import Busy, Part, fit
from learnsgl.replay.why import Reasons
from learnsgl.trace import events as ev
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.replay.ledger_world import MS, US, Ask, World, random_asks
from tests.trace.story import UID, C, Story, U, at_level, i4, i8, tell, write

RECORDINGS = sorted((Path(__file__).parents[2] / "traces").glob("*.trace.zip"))


def trace_of(tmp_path: Path, story: Story, level: TraceLevel = TraceLevel.FULL) -> Trace:
    return Trace.open(write(tmp_path, story, level))


def at_steps(tmp_path: Path) -> Trace:
    return trace_of(tmp_path, at_level(tell(), TraceLevel.STEPS), TraceLevel.STEPS)


def of_story(tmp_path: Path, story: Story, uid: int = UID) -> Ledger:
    return ledger(trace_of(tmp_path, story), uid)


def causes(parts: tuple[Part, ...]) -> list[tuple[Cause, int]]:
    return [(part.cause, part.duration_ns) for part in parts]


def check_sums(item: Ledger) -> None:
    """The parts follow each other without gaps or overlaps, within each interval and from one to the next."""
    parts = list(item.parts)
    assert all(part.end_ns > part.start_ns for part in parts)
    assert all(before.end_ns == after.start_ns for before, after in itertools.pairwise(parts))
    assert sum(item.totals.values()) == item.total_ns
    if parts:
        assert item.total_ns == parts[-1].end_ns - parts[0].start_ns


def check_against_moments(item: Ledger, history: History) -> None:
    """Each interval begins and ends at a moment of the trace."""
    journey = history.journeys[item.uid]
    req = journey.choices.get(item.choice)
    intervals = [parts for parts in (item.ttft, *item.gaps) if parts]
    ends = [parts[-1].end_ns for parts in intervals]
    if item.measured is Measure.CHUNKS:
        assert req is not None
        assert set(ends) <= set(req.chunks_ns)
    else:
        assert set(ends) <= {step.commit_ns[1] for step in history.steps if step.commit_ns}
    if item.ttft:
        assert item.start is not None
        assert item.ttft[0].start_ns == item.start.ns
    last = [place.ns for place in (journey.answered, req.ended if req else None) if place is not None]
    if last and item.total_ns:
        assert list(item.parts)[-1].end_ns == max(last)


# ---------------------------------------------------------------- exact sums


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    num=st.integers(1, 30),
    chunk=st.sampled_from([4, 16, 128]),
    overlap=st.booleans(),
    policy=st.sampled_from(["prefill-first", "mixed"]),
    cache=st.sampled_from(["radix", "naive"]),
    level=st.sampled_from([TraceLevel.FULL, TraceLevel.STEPS]),
    pages=st.sampled_from([96, 256]),
)
def test_parts_sum_to_what_was_measured(
    tmp_path_factory: pytest.TempPathFactory, seed: int, num: int, chunk: int, overlap: bool, policy: str, cache: str,
    level: TraceLevel, pages: int,
) -> None:  # fmt: skip
    options = {"max_prefill_length": chunk, "overlap": overlap, "policy": policy, "cache_type": cache}
    world = World(random_asks(num, seed), seed, num_pages=pages, max_model_len=90, num_rows=4, options=options)
    history = scan_history(world.write(tmp_path_factory.mktemp("world"), level))
    ledgers = Ledgers(history)
    assert sorted(uid for uid, _ in ledgers.keys) == list(range(1, num + 1))
    for item in ledgers.all():
        check_sums(item)
        check_against_moments(item, history)
        assert item.unexplained_share < 0.05


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])
def test_recordings_sum_and_are_explained(path: Path) -> None:
    trace = Trace.open(path)
    history = scan_history(trace)
    shares = []
    for item in Ledgers(history).all():
        check_sums(item)
        check_against_moments(item, history)
        shares.append(item.unexplained_share)
    assert sorted(shares)[len(shares) // 2] < 0.05
    lives = {life.key: life for life in requests(trace)}
    for item in Ledgers(history).all():
        life = lives[item.uid, item.choice]
        if item.measured is Measure.CHUNKS and item.ttft_ns is not None and life.ttft_s is not None:
            assert item.ttft_ns / 1e9 == pytest.approx(life.ttft_s, abs=1e-9)


def test_the_world_of_these_tests_is_a_true_recording(tmp_path: Path) -> None:
    assert "digests" in str(verify(World(random_asks(60)).write(tmp_path)))


# ---------------------------------------------------------------- one request, event by event


def test_each_step_of_the_way_has_its_cause(tmp_path: Path) -> None:
    item = of_story(tmp_path, tell())
    assert causes(item.ttft) == [
        (Cause.HTTP, 10), (Cause.TOKENIZER_MESSAGE, 10), (Cause.TOKENIZER_WAIT, 1), (Cause.TOKENIZE, 19),
        (Cause.SCHEDULER_MESSAGE, 10), (Cause.SCHEDULER_BUSY, 10), (Cause.QUEUE_TURN, 5), (Cause.SCHEDULE, 16),
        (Cause.LAUNCH, 14), (Cause.PREFILL, 25), (Cause.SAMPLE, 15), (Cause.COLLECT, 6),
        (Cause.COMMIT, 11), (Cause.DETOKENIZER_MESSAGE, 3), (Cause.DETOKENIZER_WAIT, 1), (Cause.DETOKENIZE, 6),
        (Cause.API_MESSAGE, 8), (Cause.SSE, 5),
    ]  # fmt: skip
    assert item.ttft_ns == 175
    (gap,) = item.gaps
    assert causes(gap)[:4] == [(Cause.SCHEDULE, 6), (Cause.LAUNCH, 14), (Cause.DECODE, 25), (Cause.SAMPLE, 15)]
    assert causes(item.end) == [(Cause.SSE, 26)]
    assert (item.ending, item.num_tokens, item.measured) == ("length", 2, Measure.CHUNKS)
    assert item.gap_steps == ((1,), (2,))
    assert item.part_at(200) == Part(Cause.PREFILL, 195, 220)
    assert item.part_at(99) is None


def test_with_fewer_events_there_are_fewer_causes(tmp_path: Path) -> None:
    item = ledger(at_steps(tmp_path), UID)
    assert item.measured is Measure.COMMITS
    assert [cause for cause, _ in causes(item.ttft)] == [
        Cause.WAY_IN, Cause.QUEUE_TURN, Cause.SCHEDULE, Cause.LAUNCH, Cause.PREFILL, Cause.SAMPLE, Cause.COLLECT,
        Cause.COMMIT,
    ]  # fmt: skip
    assert causes(item.end)[-1][0] is Cause.WAY_OUT
    assert item.unexplained_share < 0.08


def test_two_tokens_in_one_chunk_are_one_gap(tmp_path: Path) -> None:
    story = tell()
    story["api"] = [event for event in story["api"] if not isinstance(event, ev.HttpStreamed)]
    story["api"].insert(-6, ev.HttpStreamed(390, U, C, i8(385), i4(60)))
    item = of_story(tmp_path, story)
    assert item.gap_steps == ((1, 2),)
    assert (item.ttft_ns, item.gaps) == (285, ())
    check_sums(item)


def test_tokens_after_a_stop_string_are_nobodys(tmp_path: Path) -> None:
    """The scheduler went on until it heard of the stop; its client got what came before."""
    story = tell()
    ended = next(event for event in story["api"] if isinstance(event, ev.ReqEnded))
    ended.reason, ended.completion_tokens = "stop", 1
    item = of_story(tmp_path, story)
    assert (item.num_tokens, item.gaps, item.gap_steps) == (1, (), ((1,),))
    assert item.ttft_ns == 175
    check_sums(item)


def test_a_client_that_leaves_before_its_first_token(tmp_path: Path) -> None:
    world = World([Ask(20 * MS, list(range(1, 50)), 20, leaves_at_ns=21 * MS)], options={"max_prefill_length": 8})
    item = ledger(world.write(tmp_path), 1)
    assert (item.ttft, item.ttft_ns, item.gaps, item.ending) == ((), None, (), "abort")
    assert item.totals[Cause.PREFILL] > 0
    check_sums(item)


def test_refused_and_broken_requests_have_an_end_but_no_token(tmp_path: Path) -> None:
    asks = [Ask(20 * MS, [1] * 300), Ask(20 * MS, [1], is_broken=True), Ask(20 * MS, [1], 1, stream=False)]
    trace = World(asks).write(tmp_path)
    refused, broken, answered = Ledgers(trace).all()
    assert (refused.ending, broken.ending, answered.ending) == ("error", "error", "length")
    assert {Cause.SCHEDULER_MESSAGE, Cause.COMMIT, Cause.API_MESSAGE} <= set(refused.totals)
    assert set(broken.totals) <= {
        Cause.HTTP, Cause.TOKENIZER_MESSAGE, Cause.TOKENIZER_WAIT, Cause.TOKENIZE, Cause.API_MESSAGE, Cause.SSE,
    }  # fmt: skip
    assert (answered.num_tokens, answered.gaps, bool(answered.end)) == (1, (), True)
    for item in (refused, broken, answered):
        check_sums(item)
        assert Cause.UNEXPLAINED not in item.totals


def test_a_recording_that_stops_in_the_middle(tmp_path: Path) -> None:
    story = {name: [event for event in told if event.ns < 300] for name, told in tell().items()}
    item = of_story(tmp_path, story)
    assert (item.ending, item.num_tokens) == (None, 1)
    check_sums(item)
    assert list(item.parts)[-1].end_ns == 290


def test_a_process_that_died_is_the_cause(tmp_path: Path) -> None:
    story = tell()
    story["scheduler-0"] = [event for event in story["scheduler-0"] if event.ns < 300]
    story["detokenizer"] = [event for event in story["detokenizer"] if event.ns < 300]
    story["api"] = [event for event in story["api"] if event.ns < 300]
    story["api"] += [
        ev.HttpStreamed(350, U, C, i8(275), i4(30)),
        ev.ProcessLost(380, "scheduler-0", 102, -9),
        ev.ReqEnded(390, UID, 0, "error", 500, "worker_lost", 3, 0, 1),
        ev.HttpAnswered(395, UID, 500, 60),
    ]
    item = of_story(tmp_path, story)
    assert item.end[-1] == Part(Cause.PROCESS_LOST, 290, 395)
    check_sums(item)


def test_a_recording_whose_beginning_was_dropped(tmp_path: Path) -> None:
    """Where the arrival is missing there is no time to first token, and gaps are still true."""
    story = {name: [event for event in told if event.ns >= 265 or event.ns < 20] for name, told in tell().items()}
    item = of_story(tmp_path, story)
    assert (item.start, item.ttft, item.ttft_ns) == (None, (), None)
    check_sums(item)


def test_a_scheduler_alone_is_measured_from_its_queue(tmp_path: Path) -> None:
    trace = World(random_asks(10)).write(tmp_path, only=["scheduler-0"])
    for item in Ledgers(trace).all():
        assert item.start is None or item.start.kind == "req.queued"
        check_sums(item)


def test_each_choice_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    trace = World([Ask(20 * MS, [1] * 60, 5, n=3), Ask(20 * MS, [2] * 9, 3, n=2, stream=False)]).write(tmp_path)
    verify(trace)
    ledgers = Ledgers(trace)
    assert ledgers.keys == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    for item in ledgers.all():
        check_sums(item)
        assert len(item.gaps) + 1 == item.num_tokens == (5 if item.uid == 1 else 3)
    # the second choice takes the prompt's KV from the first one, whose prefill it waits for
    assert Cause.QUEUE_PREFIX in ledgers.of(1, 1).totals
    assert Cause.QUEUE_PREFIX not in ledgers.of(1, 0).totals
    with pytest.raises(OptionError, match="request 1 has no choice 3; there are: 0, 1, 2"):
        ledgers.of(1, 3)


# ---------------------------------------------------------------- every cause is found


def worlds() -> Iterator[World]:
    burst = [Ask(20 * MS + place * US, [1 + place] * 40, 12) for place in range(12)]
    yield World(burst, num_pages=200, num_rows=16, options={"max_prefill_length": 24})
    yield World(burst, num_rows=2, num_pages=400, options={"max_prefill_length": 24})
    yield World(burst, num_rows=16, num_pages=800, options={"max_prefill_length": 24, "max_decode_wait_steps": 1})
    shared = [Ask(20 * MS + place * US, [*range(1, 60), 60 + place], 6) for place in range(5)]
    yield World([Ask(19 * MS, [90] * 80), *shared], num_pages=800, options={"overlap": False})
    yield World(random_asks(40), num_rows=16, options={"policy": "mixed", "max_prefill_length": 16})


def with_masks(story: Story) -> Story:
    """The same steps, each sampled 5 ns later, when the masks were there."""
    told: list[ev.Event] = []
    for event in story["scheduler-0"]:
        if isinstance(event, ev.EngineForward):
            start_ns = event.forward_end_ns + 5
            told.append(ev.BatchMasked(start_ns, event.step, start_ns - 3, 1))
            event = msgspec.structs.replace(event, sample_start_ns=start_ns)
        told.append(event)
    return {**story, "scheduler-0": told}


def test_masks_that_the_device_waits_for_are_a_cause(tmp_path: Path) -> None:
    item = of_story(tmp_path, with_masks(tell()))
    check_sums(item)
    assert [part for part in causes(item.ttft) if part[0] in (Cause.PREFILL, Cause.MASKS, Cause.SAMPLE)] == [
        (Cause.PREFILL, 25), (Cause.MASKS, 5), (Cause.SAMPLE, 10),
    ]  # fmt: skip
    told = Reasons(trace_of(tmp_path / "why", with_masks(tell()))).why(UID, 222)
    assert "waits until the scheduler has its masks" in str(told)


def test_every_cause_is_found_somewhere(tmp_path: Path) -> None:
    found: set[Cause] = set()
    for place, world in enumerate(worlds()):
        for item in Ledgers(world.write(tmp_path / str(place))).all():
            check_sums(item)
            found |= set(item.totals)
    found |= set(ledger(at_steps(tmp_path / "steps"), UID).totals)
    found |= set(of_story(tmp_path / "masks", with_masks(tell())).totals)
    assert set(Cause) - found == {Cause.PROCESS_LOST}  # which has a test of its own


def test_causes_are_described() -> None:
    assert len({cause.label for cause in Cause}) == len(Cause)
    assert all(cause.meaning and cause.source for cause in Cause)
    assert repr(Cause.SSE) == "Cause.SSE"


# ---------------------------------------------------------------- spans


def test_what_parts_leave_open_is_unexplained() -> None:
    parts = [Part(Cause.HTTP, 0, 5), Part(Cause.TOKENIZE, 3, 8), Part(Cause.DECODE, 9, 20)]
    assert fit(parts, 1, 12) == (
        Part(Cause.HTTP, 1, 5), Part(Cause.TOKENIZE, 5, 8), Part(Cause.UNEXPLAINED, 8, 9), Part(Cause.DECODE, 9, 12),
    )  # fmt: skip
    assert fit([], 1, 2) == (Part(Cause.UNEXPLAINED, 1, 2),)
    assert fit(parts, 4, 4) == ()


def test_busy_spans_are_joined_and_cut() -> None:
    busy = Busy([(10, 20), (15, 30), (40, 50), (60, 60)])
    assert busy.within(12, 45) == [(12, 30), (40, 45)]
    assert busy.within(31, 39) == []
    assert (busy.last_end(5, 35), busy.last_end(45, 100), busy.last_end(31, 39), busy.last_end(0, 5)) == (30, 50, 31, 0)


# ---------------------------------------------------------------- errors, and the command line


def test_an_unknown_request_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, tell())
    with pytest.raises(OptionError, match=r"request 99 is not in this recording; there are: 7$"):
        ledger(trace, 99)
    with pytest.raises(OptionError, match="request 7 has no choice 2; there are: 0"):
        ledger(trace, UID, 2)
    empty = trace_of(tmp_path / "empty", {"api": []})
    with pytest.raises(OptionError, match="there is none at all"):
        ledger(empty, 1)
    assert uid_ranges([5, 1, 2, 9, 3]) == "1 to 3, 5, 9"


def test_the_command_prints_one_request_all_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = trace_of(tmp_path, tell())
    assert print_ledger(trace, UID) == 0
    text = capsys.readouterr().out
    assert text.startswith("request 7: 2 tokens, ended by length")
    assert "others' prefill" not in text
    assert print_ledger(trace, None) == 0
    text = capsys.readouterr().out
    assert text.startswith("1 request: 1 length")
    assert print_ledger(trace, None, as_json=True) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["uid"], told["ttft_ns"], told["ttft"][0]) == (7, 175, ["http", 100, 110])
    with pytest.raises(OptionError):
        print_ledger(trace, 8)


def test_the_command_on_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_ledger(trace_of(tmp_path, {"api": []}), None) == 0
    assert capsys.readouterr().out == "no request is in this recording\n"


def test_bars() -> None:
    assert (bar(0), bar(1), bar(0.5), bar(1 / 128)) == ("", "█" * 16, "█" * 8, "▏")
