"""`why`: each reason in words from recorded facts, the same cause as the ledger's, and events that say so."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest

from learnsgl.errors import OptionError
from learnsgl.replay.history import scan_history
from learnsgl.replay.ledger import Cause
from learnsgl.replay.moments import find_moment, in_words
from learnsgl.replay.replay import Replay
from learnsgl.replay.why import Reasons, Why, story, why
from learnsgl.replay.why_command import print_why
from learnsgl.replay.why_queue import Queue
from learnsgl.replay.why_text import listed, ordinal
from learnsgl.trace import events as ev
from learnsgl.trace.commands import add_trace_command
from learnsgl.trace.digest import RowField
from learnsgl.trace.fold import Fold
from learnsgl.trace.reader import Trace
from tests.replay.ledger_world import MS, US, Ask, World, random_asks
from tests.replay.test_ledger import RECORDINGS, at_steps, trace_of
from tests.trace.story import UID, tell

SMALL_STEPS = {"max_prefill_length": 24}


def burst(num: int, length: int = 40, max_tokens: int = 12) -> list[Ask]:
    return [Ask(20 * MS + place * US, [1 + place] * length, max_tokens) for place in range(num)]


def blocked(trace: Trace, reason: str) -> list[tuple[ev.SchedBlocked, Why]]:
    """Each time that a request was blocked for a reason, and what it waited for right then."""
    reasons = Reasons(trace)
    return [
        (entry.event, reasons.why(entry.event.uid, entry.event.ns))
        for entry in trace.events("scheduler-0")
        if isinstance(entry.event, ev.SchedBlocked) and entry.event.reason == reason
    ]


# ---------------------------------------------------------------- the reasons of the queue


def test_pages(tmp_path: Path) -> None:
    found = blocked(World(burst(9), num_pages=150, num_rows=16, options=SMALL_STEPS).write(tmp_path), "pages")
    assert found
    for event, answer in found:
        text = answer.sentences[0].text
        assert answer.cause is Cause.QUEUE_PAGES
        assert text.startswith(f"waits: {event.needed} pages needed, {event.free} free, {event.evictable} evictable")
        promised = [int(number) for number in re.findall(r"(\d+) to request \d", text)]
        assert sum(promised) == event.promised, "who was promised what sums to what the scheduler had promised"
        assert answer.sentences[1].text == "first in the queue, behind nobody"
        assert answer.sentences[0].places[0].kind == "sched.blocked"


def test_rows(tmp_path: Path) -> None:
    found = blocked(World(burst(6), num_rows=2, num_pages=400).write(tmp_path), "rows")
    assert found
    for _, answer in found:
        assert answer.cause is Cause.QUEUE_ROWS
        assert re.search(r"^waits: all 2 table rows are held, by requests \d and \d", str(answer))


def test_budget(tmp_path: Path) -> None:
    found = blocked(World(burst(6), num_rows=16, num_pages=800, options=SMALL_STEPS).write(tmp_path), "budget")
    assert found
    for event, answer in found:
        assert answer.cause is Cause.QUEUE_BUDGET
        assert answer.sentences[0].text.startswith(f"waits: no token budget was left in step {event.step}: its prompt")
        assert sum(map(int, re.findall(r"(\d+) to request", str(answer)))) == 24


def test_prefix(tmp_path: Path) -> None:
    shared = [Ask(20 * MS + place * US, [*range(1, 60), 60 + place], 6) for place in range(5)]
    world = World([Ask(19 * MS, [90] * 80), *shared], num_pages=800)
    found = blocked(world.write(tmp_path), "prefix")
    assert found
    for event, answer in found:
        assert answer.cause is Cause.QUEUE_PREFIX
        assert answer.sentences[0].text == f"waits: request {event.other_uid} computes a prefix that both share"


def test_prefix_of_another_choice(tmp_path: Path) -> None:
    told = [str(span) for span in story(World([Ask(20 * MS, [1] * 60, 5, n=2)]).write(tmp_path), 1, choice=1)]
    assert any(text.startswith("waits: another of its choices computes a prefix that both share") for text in told)


def test_policy(tmp_path: Path) -> None:
    options = {**SMALL_STEPS, "max_decode_wait_steps": 1}
    found = blocked(World(burst(6), num_rows=16, options=options).write(tmp_path), "policy")
    assert found
    assert {answer.cause for _, answer in found} == {Cause.QUEUE_POLICY}
    event, answer = found[0]
    assert f"waits: the policy gave step {event.step} to answers that had waited" in str(answer)


def test_not_the_first(tmp_path: Path) -> None:
    trace = World(burst(8), num_rows=2, num_pages=400).write(tmp_path)
    reasons = Reasons(trace)
    behind = next(span.part for span in reasons.story(8) if span.part.cause is Cause.QUEUE_BEHIND)
    text = str(reasons.why(8, (behind.start_ns + behind.end_ns) // 2))
    assert re.match(r"waits: \w+ in the queue, behind requests? [\d, and]+; request \d waits: all 2 table rows", text)


@pytest.mark.parametrize("seed", range(4))
def test_promises_sum_at_every_moment_that_pages_were_short(tmp_path: Path, seed: int) -> None:
    """Who holds and is promised what is told from requests and steps alone; the scheduler counted it as it ran."""
    options = {"max_prefill_length": 32, "policy": "mixed" if seed % 2 else "prefill-first"}
    size = 1 + seed
    world = World(random_asks(60, seed), seed, num_pages=100 // size, page_size=size, max_model_len=90, options=options)
    trace = world.write(tmp_path)
    reasons = Reasons(trace)
    queue = Queue(reasons.ledgers.history)
    blocks = [b for j in reasons.ledgers.history.journeys.values() for r in j.choices.values() for b in r.blocks]
    assert any(block.reason == "pages" for block in blocks)
    for block in blocks:
        assert sum(holder.num_promised for holder in queue.promised(block)) == block.promised


@pytest.mark.parametrize("seed", range(3))
def test_queue_and_holders_are_those_of_the_folded_state(tmp_path: Path, seed: int) -> None:
    options = {"max_prefill_length": 24, "policy": "mixed" if seed % 2 else "prefill-first"}
    world = World(random_asks(50, seed), seed, num_pages=60, page_size=2, max_model_len=90, options=options)
    trace = world.write(tmp_path)
    queue, fold = Queue(scan_history(trace)), Fold()
    for entry in trace.events("scheduler-0"):
        fold.apply(entry.event)
        if isinstance(entry.event, ev.SchedStep):
            ns, rows = entry.event.ns, fold.state.rows
            waiting = [(item.uid, item.choice) for item in fold.state.queue.values()]
            assert [tuple(req.key) for req in queue.waiting(ns)] == waiting
            used = np.flatnonzero(rows[RowField.PRESENT]).tolist()
            folded = [(row, rows[RowField.UID, row], rows[RowField.NUM_PAGES, row]) for row in used]
            assert [(holder.row, holder.key.uid, holder.num_pages) for holder in queue.holders(ns)] == folded


# ---------------------------------------------------------------- everything else


def test_the_story_of_one_request(tmp_path: Path) -> None:
    spans = story(trace_of(tmp_path, tell()), UID)
    told = [str(span) for span in spans]
    assert told[:4] == [
        "is read by the API server (/v1/completions); it is sent to tokenizer-0 at 0.000000s",
        "is in flight from api to tokenizer-0 (sent at 0.000000s, taken at 0.000000s)",
        "waits for tokenizer-0",
        "is being tokenized by tokenizer-0: 3 tokens",
    ]  # fmt: skip
    assert "runs in step 1 (prefill of tokens 0 to 2 of 3)" in told
    assert "runs in step 2 (decodes its token 2)" in told
    assert told[-1] == "the API server writes its ending to the client's socket"
    kinds = {place.kind for span in spans for sentence in span.sentences for place in sentence.places}
    assert {"http.received", "msg.sent", "tok.tokenized", "req.queued", "sched.step", "engine.forward"} <= kinds


def test_turns_of_others_are_named(tmp_path: Path) -> None:
    world = World([Ask(20 * MS, [1] * 5, 40), Ask(25 * MS, [2] * 90, 3)], options={"max_prefill_length": 32})
    told = [str(span) for span in story(world.write(tmp_path), 1)]
    assert any(
        re.match(r"waits for its turn while step \d+ prefills request 2's prompt \(tokens 0 to 31 of 90\)", t)
        for t in told
    )


def test_before_and_after(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, tell())
    before, after = why(trace, UID, "start"), why(trace, UID, "end")
    assert (before.cause, after.cause) == (None, None)
    assert str(before).startswith("isn't here yet: it comes at ")
    assert re.fullmatch(r"has ended at [\d.]+s by length with 2 tokens, status 200", str(after))
    assert [place.kind for place in after.sentences[0].places] == ["req.ended", "http.answered", "req.finished"]


def test_every_sentence_has_its_events_and_agrees_with_the_ledger(tmp_path: Path) -> None:
    trace = World(random_asks(40, 3), num_rows=4, options=SMALL_STEPS).write(tmp_path)
    there = {(entry.process, entry.number): (entry.event.ns, entry.kind) for entry in trace.events()}
    reasons = Reasons(trace)
    for uid in range(1, 41):
        for span in reasons.story(uid):
            assert reasons.why(uid, span.part.start_ns).cause is span.part.cause
            assert span.part.cause is Cause.UNEXPLAINED or span.sentences[0].places, str(span)
            for sentence in span.sentences:
                assert all(there[p.process, p.number] == (p.ns, p.kind) for p in sentence.places)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])
def test_recordings_are_told(path: Path) -> None:
    reasons = Reasons(Trace.open(path))
    for uid, choice in reasons.ledgers.keys:
        spans = reasons.story(uid, choice)
        assert spans
        assert all(span.sentences and all(sentence.text for sentence in span.sentences) for span in spans)


def test_at_level_steps(tmp_path: Path) -> None:
    told = [str(span) for span in story(at_steps(tmp_path), UID)]
    assert told[0] == "is on its way to the scheduler; this level of recording doesn't say where"
    assert told[-1] == "its ending is on its way to the client; this level of recording doesn't say where"


def test_aborts_and_processes_that_died(tmp_path: Path) -> None:
    world = World([Ask(20 * MS, [1] * 50, 20, leaves_at_ns=22 * MS)], options={"max_prefill_length": 8})
    trace = world.write(tmp_path)
    assert "has ended" in str(why(trace, 1, "end"))
    assert "by abort" in str(why(trace, 1, "end"))
    assert "status 499 (some_code)" in str(why(trace, 1, "end"))


def test_messages_that_were_never_received(tmp_path: Path) -> None:
    stopped = {name: [event for event in told if event.ns < 145] for name, told in tell().items()}
    stopped["api"].append(ev.ProcessStopping(160, "signal", 1))
    trace = trace_of(tmp_path, stopped)
    last = [str(span) for span in story(trace, UID)][-1]
    assert last.endswith("is in flight from tokenizer-0 to channel scheduler, and was not received in this recording")
    stopped["tokenizer-0"] = stopped["tokenizer-0"][:2]
    last = [str(span) for span in story(trace_of(tmp_path / "sooner", stopped), UID)][-1]
    assert last.endswith("is in flight from api to channel tokenizer-0, and was not received in this recording")


# ---------------------------------------------------------------- moments


def test_a_moment_is_written_as_it_can_be_given_back(tmp_path: Path) -> None:
    replay = Replay(trace_of(tmp_path, tell()))
    assert in_words(5 + 12_500_000_000, replay.trace) == "12.500000s"
    assert find_moment(replay, "0").ns == find_moment(replay, in_words(5, replay.trace)).ns == 5


def test_small_words() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 22, 23, 101, 111)] == [
        "first", "second", "third", "4th", "11th", "12th", "21st", "22nd", "23rd", "101st", "111th",
    ]  # fmt: skip
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefg")) == "a, b, c, d, e, f and g"
    assert listed(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"


# ---------------------------------------------------------------- the command line


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = trace_of(tmp_path, tell())
    assert print_why(trace, UID, None) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "request 7, in seconds since the trace's first event:"
    assert second.split(maxsplit=3)[2:] == [
        "ms", "is read by the API server (/v1/completions); it is sent to tokenizer-0 at 0.000000s  "
        "[api:8, api:9, tokenizer-0:3]",
    ]  # fmt: skip
    assert print_why(trace, UID, "scheduler-0:8") == 0
    assert capsys.readouterr().out.splitlines()[0] == "request 7 at scheduler-0:8 (scheduling exposed):"
    with pytest.raises(OptionError, match="request 1 is not in this recording"):
        print_why(trace, 1, None)


def test_the_commands_are_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(trace_of(tmp_path, tell()).path)
    parser = argparse.ArgumentParser()
    add_trace_command(parser.add_subparsers())
    for words, start in [
        (["why", folder, "7"], "request 7, in seconds"),
        (["why", folder, "7", "--at", "step:1", "--choice", "0"], "request 7 at step:1"),
        (["ledger", folder], "1 request: 1 length"),
        (["ledger", folder, "7", "--json"], "["),
        (["diff", folder, folder], "A  "),
        (["diff", folder, folder, "--json"], "{"),
        (["workload", folder], '{"format":"learnsgl-workload"'),
        (["workload", folder, "--out", str(tmp_path / "w")], f"{tmp_path / 'w'}: 1 requests"),
    ]:
        args = parser.parse_args(["trace", *words])
        assert args.run(args) == 0
        assert capsys.readouterr().out.startswith(start)


def test_the_command_at_level_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_why(at_steps(tmp_path), UID, "step:1") == 0
    assert "launch" in capsys.readouterr().out
