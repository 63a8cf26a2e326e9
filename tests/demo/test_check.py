"""The demo's findings come from the trace: each of them fails where the trace doesn't show it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from learnsgl.core import ReqKey
from learnsgl.demo.ask import Answer
from learnsgl.demo.check import findings, lives_of, prefill_chunks
from learnsgl.demo.questions import QUESTIONS
from learnsgl.demo.report import STAGE_MEANINGS, request_table, stage_table
from learnsgl.errors import TraceError
from learnsgl.trace import events as ev
from learnsgl.trace.life import STAGES, RequestLife
from learnsgl.trace.reader import Trace
from tests.trace.story import Story, i4, i8, tell, write

UIDS = (1, 2, 3, 4)
PROMPTS = (42, 362, 364, 1629)
CACHED = (0, 0, 345, 0)
LONG_CHUNKS = (512, 512, 512, 93)
ANSWERS = [
    Answer(question, uid, "text", "stop", prompt, cached, 8)
    for question, uid, prompt, cached in zip(QUESTIONS, UIDS, PROMPTS, CACHED, strict=True)
]


def story(cached: tuple[int, ...] = CACHED, chunks: tuple[int, ...] = LONG_CHUNKS, reason: str = "stop") -> Story:
    """What a trace of the demo holds for its findings, and no more."""
    told = tell()
    told["api"] = [
        ev.ReqEnded(900 + uid, uid, 0, reason, 200, None, prompt, cached_len, 8)
        for uid, prompt, cached_len in zip(UIDS, PROMPTS, cached, strict=True)
    ]
    told["scheduler-0"] = [
        ev.SchedAdmitted(100, 1, i8(*UIDS), i4(0, 0, 0, 0), i4(0, 1, 2, 3), i4(*cached), i8(0, 0, 0, 0), i4(9, 9, 9, 9))
    ] + [
        ev.SchedStep(200 + step, step, 199, i8(4, 1), i4(0, 0), i4(0, 42), i4(chunk, 1), 1, 0, 13)
        for step, chunk in enumerate(chunks, start=1)
    ]
    return told


def held(tmp_path: Path, told: Story, answers: list[Answer] = ANSWERS) -> list[bool]:
    return [finding.holds for finding in findings(Trace.open(write(tmp_path, told)), answers)]


def test_all_points_hold_where_the_trace_shows_them(tmp_path: Path) -> None:
    assert held(tmp_path, story()) == [True] * 4


def test_an_aborted_request_is_found(tmp_path: Path) -> None:
    assert held(tmp_path, story(reason="abort")) == [False, False, True, True]


def test_a_client_that_was_told_something_else_is_found(tmp_path: Path) -> None:
    answers = [replace(ANSWERS[0], completion_tokens=9), *ANSWERS[1:]]
    assert held(tmp_path, story(), answers) == [True, False, True, True]


@pytest.mark.parametrize("cached", [0, 5], ids=["nothing", "the first tokens of any chat"])
def test_a_prefix_that_was_not_shared_is_found(tmp_path: Path, cached: int) -> None:
    answers = [*ANSWERS[:2], replace(ANSWERS[2], cached_tokens=cached), ANSWERS[3]]
    assert held(tmp_path, story(cached=(0, 0, cached, 0)), answers) == [True, True, False, True]


@pytest.mark.parametrize("chunks", [(1629,), (512, 512)], ids=["one step", "a short prompt"])
def test_a_prompt_that_was_not_cut_or_not_long_is_found(tmp_path: Path, chunks: tuple[int, ...]) -> None:
    assert held(tmp_path, story(chunks=chunks)) == [True, True, True, False]


def test_chunks_do_not_count_decode_runs(tmp_path: Path) -> None:
    trace = Trace.open(write(tmp_path, story()))
    assert prefill_chunks(trace, 4) == list(LONG_CHUNKS)
    assert prefill_chunks(trace, 1) == []


def test_a_request_that_the_trace_lacks_is_an_error(tmp_path: Path) -> None:
    trace = Trace.open(write(tmp_path, story()))
    with pytest.raises(TraceError, match=r"holds nothing of a \(request 99\)"):
        lives_of(trace, [replace(ANSWERS[0], uid=99)])


LIFE = RequestLife(
    ReqKey(1), reason="stop", prompt_tokens=42, cached_tokens=0, generated_tokens=8, streamed=True,
    received_ns=0, tokenize_sent_ns=1_000_000, queued_ns=6_000_000, admitted_ns=6_500_000,
    committed_ns=[106_500_000, 306_500_000], first_text_ns=107_000_000, last_text_ns=307_000_000,
    chunks_ns=[108_000_000, 308_000_000], answered_ns=309_000_000, ended_ns=309_000_000, released_ns=310_000_000,
)  # fmt: skip


def test_the_table_of_requests_holds_tokens_and_times() -> None:
    heads, row = request_table(ANSWERS[:1], [LIFE]).splitlines()
    assert heads.split()[:5] == ["request", "ending", "prompt", "cached", "generated"]
    assert row.split()[:8] == ["a", "(uid", "1)", "stop", "42", "0", "8", "108.0"]


def test_the_table_of_stages_has_all_eight_in_order_with_bars_in_place() -> None:
    assert tuple(STAGE_MEANINGS) == STAGES
    rows = stage_table(LIFE).splitlines()[1:]
    assert [row.split()[1] for row in rows] == list(STAGES)
    assert [float(row.split()[2]) for row in rows] == [1.0, 5.0, 0.5, 100.0, 200.0, 0.5, 1.0, 2.0]
    bars = [row.partition("|")[2].rpartition("|")[0] for row in rows]
    assert {len(bar) for bar in bars} == {40}
    assert bars[4].strip("# ") == ""
    assert bars[4].count("#") == round(200 / 310 * 40)


def test_a_stage_that_the_trace_lacks_has_a_dash() -> None:
    rows = stage_table(replace(LIFE, admitted_ns=None)).splitlines()[1:]
    assert [row.split()[2] for row in rows][2:4] == ["-", "-"]
