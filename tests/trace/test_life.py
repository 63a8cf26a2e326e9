"""A request's eight stages, TTFT and TPOT, as the events have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from learnsgl.config import TraceLevel
from learnsgl.core import ReqKey
from learnsgl.trace import events as ev
from learnsgl.trace.life import STAGES, RequestLife
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace
from tests.trace.story import UID, Story, at_level, i4, i8, tell, write


def lives(root: Path, story: Story, level: TraceLevel = TraceLevel.FULL) -> list[RequestLife]:
    return requests(Trace.open(write(root, at_level(story, level), level)))


def test_the_eight_stages_begin_and_end_with_their_events(tmp_path: Path) -> None:
    (life,) = lives(tmp_path, tell())
    assert life.key == ReqKey(UID)
    assert [(stage.name, stage.start_ns, stage.end_ns) for stage in life.stages if stage] == [
        ("received", 100, 110),
        ("tokenized", 110, 160),
        ("queued", 160, 170),
        ("prefilled", 170, 250),
        ("decoded", 250, 350),
        ("detokenized", 350, 360),
        ("replied", 360, 375),
        ("ended", 375, 401),
    ]
    assert (life.reason, life.status, life.streamed) == ("length", 200, True)
    assert (life.prompt_tokens, life.cached_tokens, life.generated_tokens) == (3, 0, 2)
    assert life.ttft_s == pytest.approx(175e-9)
    assert life.tpot_s == pytest.approx(100e-9)


def test_the_stages_add_up_to_the_life(tmp_path: Path) -> None:
    (life,) = lives(tmp_path, tell())
    assert sum(stage.seconds for stage in life.stages if stage) == pytest.approx((401 - 100) / 1e9)


def test_a_chunk_that_only_names_the_role_is_not_the_first_token(tmp_path: Path) -> None:
    story = tell()
    place = [isinstance(event, ev.HttpStreamed) for event in story["api"]].index(True)
    story["api"][place] = ev.HttpStreamed(390, i8(UID, UID, UID), i4(0, 0, 0), i8(150, 275, 375), i4(30, 30, 30))
    (life,) = lives(tmp_path, story)
    assert life.ttft_s == pytest.approx(175e-9)
    assert life.tpot_s == pytest.approx(100e-9)


def test_without_a_stream_the_answer_is_the_first_thing_that_comes(tmp_path: Path) -> None:
    story = tell()
    api = [event for event in story["api"] if not isinstance(event, ev.HttpStreamed)]
    place = [isinstance(event, ev.HttpReceived) for event in api].index(True)
    api[place] = ev.HttpReceived(100, UID, "/v1/completions", False, 50)
    (life,) = lives(tmp_path, story | {"api": api})
    assert life.ttft_s == pytest.approx(301e-9)
    assert life.tpot_s == pytest.approx(100e-9), "between the commits of its tokens"
    assert [stage.name for stage in life.stages if stage] == list(STAGES)


def test_at_level_steps_the_scheduler_s_stages_are_there(tmp_path: Path) -> None:
    (life,) = lives(tmp_path, tell(), TraceLevel.STEPS)
    assert [stage.name if stage else None for stage in life.stages] == [
        None, None, "queued", "prefilled", "decoded", None, None, "ended",
    ]  # fmt: skip
    assert life.ttft_s is None
    assert life.reason == "length"


def test_requests_come_in_the_order_of_their_arrival_and_each_choice_has_its_own_life(tmp_path: Path) -> None:
    story = tell()
    api, scheduler = story["api"], story["scheduler-0"]
    api.insert(7, ev.HttpReceived(50, 9, "/v1/completions", False, 5))
    scheduler.insert(3, ev.ReqQueued(61, 9, 1, 3, 4, 9, None))
    scheduler.insert(3, ev.ReqQueued(60, 9, 0, 2, 4, 9, None))
    found = lives(tmp_path, story)
    assert [life.key for life in found] == [ReqKey(9, 0), ReqKey(9, 1), ReqKey(UID, 0)]
    assert [life.received_ns for life in found] == [50, 50, 100]
    assert found[0].reason is None
    assert found[0].tpot_s is None


def test_a_request_that_never_reached_the_scheduler_has_a_life_too(tmp_path: Path) -> None:
    story = tell()
    story["api"][8:8] = [
        ev.HttpReceived(101, 9, "/v1/completions", False, 5),
        ev.ReqEnded(102, 9, 0, "error", 400, "context_length_exceeded", 99, 0, 0),
        ev.HttpAnswered(103, 9, 400, 80),
    ]
    refused = lives(tmp_path, story)[1]
    assert (refused.key.uid, refused.reason, refused.status, refused.prompt_tokens) == (9, "error", 400, 99)
    assert [stage.name for stage in refused.stages if stage] == ["ended"]
