"""`diff`: nothing parts a run from itself; another option parts them at the decision that it changes, and says why."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from learnsgl.config import TraceLevel
from learnsgl.replay.diff import Aspect, Parting, TraceDiff, diff, option_diffs
from learnsgl.replay.diff_command import print_diff
from learnsgl.replay.diff_match import match_requests
from learnsgl.replay.history import scan_history
from learnsgl.trace.reader import Trace
from tests.replay.ledger_world import MS, US, Ask, World, random_asks
from tests.replay.test_ledger import RECORDINGS, trace_of
from tests.trace.story import tell

SHARED = [Ask(20 * MS, [5] * 50, 30), *(Ask((30 + 8 * i) * MS, [*range(1, 60), 60 + i], 6) for i in range(5))]
"""A long answer, and beside it prompts that share a prefix, one after the other."""


def compare(tmp_path: Path, asks: list[Ask], a: dict[str, object], b: dict[str, object], **sizes: int) -> TraceDiff:
    sizes = {"num_pages": 400, **sizes}
    worlds = [World(asks, options=options, **sizes) for options in (a, b)]
    return diff(*(world.write(tmp_path / str(place)) for place, world in enumerate(worlds)))


def parted(found: TraceDiff) -> Parting:
    assert found.parting is not None
    return found.parting


def texts(parting: Parting) -> str:
    return "\n".join(reason.text for reason in parting.reasons)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_does_not_part_from_itself(tmp_path: Path, seed: int) -> None:
    found = compare(tmp_path, random_asks(40, seed), {"max_prefill_length": 16}, {"max_prefill_length": 16})
    assert found.is_same
    assert (found.parting, found.requests, found.options, found.notes) == (None, (), (), ())
    assert (found.match.only_a, found.match.only_b, found.match.first_swap) == ((), (), None)
    assert found.a == found.b
    assert len(found.match.pairs) == 40


@pytest.mark.parametrize("path", RECORDINGS[:3], ids=lambda path: path.name.partition(".")[0])
def test_a_recording_does_not_part_from_itself(path: Path) -> None:
    assert diff(Trace.open(path), Trace.open(path)).is_same


def test_another_limit_of_waiting_parts_where_an_answer_may_go_on(tmp_path: Path) -> None:
    chunks = {"max_prefill_length": 16}
    found = compare(tmp_path, SHARED, {"max_decode_wait_steps": 1, **chunks}, {"max_decode_wait_steps": 8, **chunks})
    assert "--max-decode-wait-steps is 1 in A and 8 in B" in texts(parted(found))
    assert [item.name for item in found.options] == ["max_decode_wait_steps"]


def test_another_policy_parts_where_an_answer_waits(tmp_path: Path) -> None:
    chunks = {"max_prefill_length": 16}
    found = compare(tmp_path, SHARED, {"policy": "prefill-first", **chunks}, {"policy": "mixed", **chunks})
    parting = parted(found)
    assert (parting.aspect, parting.is_timing) == (Aspect.DECODES, False)
    assert (parting.a.text, parting.b.text) == ("decoded: none", "decoded: request 1")
    assert parting.others == (Aspect.CHUNKS,)  # the answer's token came out of the budget of prompts
    assert "--policy is prefill-first in A and mixed in B" in texts(parting)
    assert "in A request 1 had been admitted, and was not in the step\nin B request 1 decoded" in texts(parting)
    assert [item.name for item in found.options] == ["policy"]
    assert "steps that it sat out while it ran" in [item.what for item in found.requests]


def test_another_chunk_size_parts_at_the_first_chunk(tmp_path: Path) -> None:
    found = compare(tmp_path, SHARED, {"max_prefill_length": 16}, {"max_prefill_length": 512})
    parting = parted(found)
    assert (parting.step, parting.aspect) == (1, Aspect.CHUNKS)
    assert parting.a.text == "prompt tokens: 0 to 15 of request 1"
    assert parting.b.text == "prompt tokens: 0 to 49 of request 1"
    assert "--max-prefill-length is 16 in A and 512 in B" in texts(parting)
    chunks = next(item for item in found.requests if item.what == "chunks of its prompt")
    assert chunks.example.text == "request 1: 16, 16, 16 and 2 tokens in A, 50 tokens in B"


def test_another_cache_parts_at_the_first_hit(tmp_path: Path) -> None:
    parting = parted(compare(tmp_path, SHARED, {"cache_type": "naive"}, {"cache_type": "radix"}))
    assert parting.aspect is Aspect.CACHED
    assert parting.a.text == "found in the cache: 0 tokens of request 3"
    assert parting.b.text == "found in the cache: 59 tokens of request 3"
    assert "--cache-type is naive in A and radix in B" in texts(parting)
    assert {place.kind for place in parting.b.places} == {"sched.step"}


@pytest.mark.parametrize(("sizes", "reason", "option"), [
    ({"num_pages": 100}, "waited: pages", "num_pages"), ({"num_rows": 1}, "waited: rows", "max_running_requests"),
])  # fmt: skip
def test_fewer_pages_or_rows_part_where_a_request_must_wait(
    tmp_path: Path, sizes: dict[str, int], reason: str, option: str
) -> None:
    asks = [Ask(20 * MS + place * US, [1 + place] * 40, 20) for place in range(6)]
    a, b = (
        World(asks, num_pages=800, max_model_len=90),
        replace(World(asks, max_model_len=90), **{"num_pages": 800} | sizes),
    )
    parting = parted(diff(a.write(tmp_path / "a"), b.write(tmp_path / "b")))
    assert parting.aspect is Aspect.ADMISSION
    assert re.search(rf"in B request \d {reason}", texts(parting))
    assert ("pages were free in A and" in texts(parting)) == (option == "num_pages")
    assert f"--{option.replace('_', '-')} is " in texts(parting)


def test_another_moment_of_arrival_is_no_fault_of_an_option(tmp_path: Path) -> None:
    later = [SHARED[0], *(replace(ask, at_ns=ask.at_ns + 3 * MS) for ask in SHARED[1:])]
    trace_a = World(SHARED, num_pages=400).write(tmp_path / "a")
    trace_b = World(later, num_pages=400, options={"policy": "mixed"}).write(tmp_path / "b")
    parting = parted(diff(trace_a, trace_b))
    assert (parting.is_timing, parting.aspect) == (True, Aspect.ADMISSION)
    assert "in B request 2 wasn't in the queue yet, but " in texts(parting)
    assert "policy" not in texts(parting)


def test_an_abort_parts_where_the_request_is_missing(tmp_path: Path) -> None:
    asks = [Ask(20 * MS, [1] * 10, 40), Ask(20 * MS, [2] * 10, 40)]
    leaving = [asks[0], replace(asks[1], leaves_at_ns=26 * MS)]
    a, b = World(asks).write(tmp_path / "a"), World(leaving).write(tmp_path / "b")
    found = diff(a, b)
    assert "in A request 2 decoded\nin B request 2 had ended by abort" in texts(parted(found))
    assert "(an abort came: abort)" in texts(parted(found))
    assert [item.example.text for item in found.requests if item.what == "ending"] == [
        "request 2: length in A, abort in B"
    ]
    assert (found.a.endings, found.b.endings) == ({"length": 2}, {"abort": 1, "length": 1})


def test_free_pages_are_no_decision(tmp_path: Path) -> None:
    """More pages than any request asks for change nothing but their number."""
    asks = [Ask(20 * MS, [1] * 10, 4)]
    a, b = World(asks, num_pages=300).write(tmp_path / "a"), World(asks, num_pages=400).write(tmp_path / "b")
    parting = parted(diff(a, b))
    assert (parting.step, parting.aspect, parting.a.text) == (1, Aspect.PAGES, "290 pages were free")
    assert texts(parting) == "--num-pages is 300 in A and 400 in B"


def test_one_that_simply_ends_sooner(tmp_path: Path) -> None:
    whole = World([Ask(20 * MS, [1] * 10, 20)]).write(tmp_path / "a")
    story = World([Ask(20 * MS, [1] * 10, 20)])
    story.story["scheduler-0"] = [event for event in story.story["scheduler-0"] if event.ns < 25 * MS]
    cut = story.write(tmp_path / "b")
    parting = parted(diff(whole, cut))
    assert parting.aspect is Aspect.END
    assert parting.b.text == f"there is no step {parting.step}"
    assert parted(diff(cut, whole)).a.text == parting.b.text


def test_other_workloads_are_told_apart(tmp_path: Path) -> None:
    a = [Ask(20 * MS, [1] * 10, 4), Ask(21 * MS, [1] * 20, 4)]
    b = [
        Ask(20 * MS, [1] * 20, 4),
        Ask(21 * MS, [1] * 10, 4),
        Ask(22 * MS, [1] * 30, 5),
        Ask(23 * MS, [1], is_broken=True),
    ]
    found = diff(World(a).write(tmp_path / "a"), World(b).write(tmp_path / "b"))
    assert found.match.first_swap == 0
    assert not found.match.is_same_workload
    assert found.match.differences() == [
        "only in B: 1 with 30 prompt tokens and at most 5 new ones",
        "only in B: 1 with a prompt of unknown length",
        "requests came in another order, from the 1. on",
    ]
    assert [(pair.a.key.uid, pair.b.key.uid) for pair in found.match.pairs] == [(1, 2), (2, 1)]


def test_a_request_that_only_one_has_is_the_reason(tmp_path: Path) -> None:
    asks = [Ask(20 * MS, [1] * 10, 4), Ask(30 * MS, [1] * 20, 4)]
    parting = parted(diff(World(asks[:1]).write(tmp_path / "a"), World(asks).write(tmp_path / "b")))
    assert (parting.aspect, parting.is_timing) == (Aspect.END, False)
    more = [asks[0], Ask(20 * MS, [3] * 9, 9), asks[1]]
    parting = parted(diff(World(asks).write(tmp_path / "c"), World(more).write(tmp_path / "d")))
    assert (parting.aspect, parting.is_timing) == (Aspect.ADMISSION, False)
    assert texts(parting) == (
        "in A request 2 of B (which A hasn't) isn't there\n"
        "in B request 2 of B (which A hasn't) ran with 9 prompt tokens, after 0 from the cache"
    )


def test_many_different_lengths_are_counted(tmp_path: Path) -> None:
    a = scan_history(World([Ask(20 * MS + i * MS, [1] * (5 + i), 4) for i in range(7)]).write(tmp_path / "a"))
    b = scan_history(World([Ask(20 * MS, [1], 4)]).write(tmp_path / "b"))
    assert match_requests(a, b).differences()[5] == "only in A: more of other lengths, 7 in all"


def test_totals_count_what_happened(tmp_path: Path) -> None:
    totals = compare(tmp_path, SHARED, {}, {}).a
    assert (totals.num_requests, totals.endings, totals.output_tokens) == (6, {"length": 6}, 60)
    assert totals.cache_hit_rate == pytest.approx(4 * 59 / (50 + 5 * 60))
    assert totals.pages_peak is not None
    assert 50 <= totals.pages_peak <= 400
    assert totals.ttft is not None
    assert totals.ttft.p50 <= totals.ttft.p90 <= totals.ttft.p99
    assert totals.tokens_per_step == pytest.approx((50 + 60 + 4 * 1 + 60 - 6) / totals.num_steps, rel=0.1)
    assert totals.device_idle_share is not None
    assert 0 < totals.device_idle_share < 1


def test_what_begins_late_or_holds_nothing_is_said(tmp_path: Path) -> None:
    whole = World(SHARED, num_pages=400)
    late = World(SHARED, num_pages=400)
    late.story["scheduler-0"] = [event for event in late.story["scheduler-0"] if event.ns > 25 * MS]
    found = diff(whole.write(tmp_path / "a"), late.write(tmp_path / "b"))
    assert found.parting is None
    assert "B begins with step" in found.notes[0]
    nothing = diff(trace_of(tmp_path / "c", {"api": []}), trace_of(tmp_path / "d", {"api": []}))
    assert nothing.notes == tuple(f"no step ran in {name}, so there are no decisions to compare" for name in "AB")
    assert (nothing.a.ttft, nothing.a.pages_peak, nothing.a.num_requests) == (None, None, 0)


def test_at_level_steps_decisions_are_known_too(tmp_path: Path) -> None:
    worlds = [World(SHARED, num_pages=400, options={"cache_type": kind}) for kind in ("naive", "radix")]
    traces = [world.write(tmp_path / str(i), TraceLevel.STEPS) for i, world in enumerate(worlds)]
    assert parted(diff(*traces)).aspect is Aspect.CACHED


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (World(SHARED, num_pages=400, options={"policy": policy, "max_prefill_length": 16}).write(tmp_path / policy)
            for policy in ("prefill-first", "mixed"))  # fmt: skip
    assert print_diff(a, b) == 0
    text = capsys.readouterr().out
    assert "policy: prefill-first in A, mixed in B" in text
    assert "they part at step " in text
    assert "because --policy is prefill-first in A and mixed in B" in text
    assert "output tokens a second" in text
    assert print_diff(a, a) == 0
    assert "no step differs: every decision is the same" in capsys.readouterr().out
    assert print_diff(a, b, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["parting"]["aspect"], told["is_same"], told["totals"]["a"]["num_requests"]) == ("decodes", False, 6)
    assert print_diff(a, trace_of(tmp_path / "story", tell())) == 0
    assert "NOT the same; totals can't be compared fairly" in capsys.readouterr().out


def test_an_option_of_one_version_only_says_nothing() -> None:
    old, new = ({"config": {"engine": {"dtype": "auto", **more}}} for more in ({}, {"dummy_weights": False}))
    assert list(option_diffs(old, new)) == []
    assert list(option_diffs(old, {"config": {"engine": {"dtype": "float16"}}})) == [("dtype", "auto", "float16")]
