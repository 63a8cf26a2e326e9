"""Several choices of one request: one computes the prompt, the others wait and share its pages."""

from __future__ import annotations

import numpy as np
import pytest

from learnsgl.core import FinishReason, ReqKey
from learnsgl.message.types import AbortMsg
from learnsgl.trace import events
from tests.fakes import expected_output
from tests.scheduler.harness import Harness

PROMPT = list(range(1, 21))


def cached(harness: Harness, uid: int) -> list[int]:
    return [ending.num_cached_tokens for key, ending in sorted(harness.choice_endings.items()) if key.uid == uid]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("page_size", "shared"), [(1, 19), (4, 16)])
def test_siblings_share_the_prompt(overlap: bool, page_size: int, shared: int) -> None:
    harness = Harness(page_size=page_size, overlap=overlap, num_pages=256 // page_size)
    uid = harness.send(PROMPT, 5, n=4, ignore_eos=True)
    harness.run()
    expected = expected_output(PROMPT, 5, ignore_eos=True)
    assert harness.choice_outputs == {ReqKey(uid, choice): expected for choice in range(4)}
    assert cached(harness, uid) == [0, shared, shared, shared]
    steps = [event for event in harness.events_of(events.SchedStep) if isinstance(event, events.SchedStep)]
    num_prompt_tokens = sum(int(np.frombuffer(step.lens, "<i4")[: step.num_prefill].sum()) for step in steps)
    assert num_prompt_tokens == 20 + 3 * (20 - shared)
    blocked = [event for event in harness.events_of(events.SchedBlocked) if isinstance(event, events.SchedBlocked)]
    assert [(event.uid, event.choice, event.reason, event.other_uid) for event in blocked] == [
        (uid, choice, "prefix", uid) for choice in (1, 2, 3)
    ]


def test_siblings_wait_for_every_chunk_and_hold_nobody_up() -> None:
    harness = Harness(num_rows=12, num_pages=1024, max_prefill_length=4)
    uid = harness.send(PROMPT, 4, n=6, ignore_eos=True)
    other = harness.send([50, 51, 52], 4, ignore_eos=True)
    harness.run()
    assert cached(harness, uid) == [0] + [19] * 5
    admitted = [event for event in harness.events_of(events.SchedAdmitted) if isinstance(event, events.SchedAdmitted)]
    order = [one for event in admitted for one in np.frombuffer(event.uids, "<i8").tolist()]
    assert order == [uid, other] + [uid] * 5, "the other request was admitted while the siblings waited"


def test_without_a_cache_every_choice_computes_its_prompt() -> None:
    harness = Harness(cache_type="naive", num_pages=256)
    uid = harness.send(PROMPT, 3, n=3, ignore_eos=True)
    harness.run()
    assert cached(harness, uid) == [0, 0, 0]


def test_more_choices_than_rows() -> None:
    harness = Harness(num_rows=2, num_pages=256)
    uid = harness.send(PROMPT, 3, n=9, ignore_eos=True)
    harness.run()
    assert len(harness.choice_endings) == 9
    assert cached(harness, uid) == [0] + [19] * 8


def test_a_choice_can_be_ended_alone_and_all_of_them_at_once() -> None:
    harness = Harness(num_pages=256)
    uid = harness.send(PROMPT, 30, n=3, ignore_eos=True)
    for _ in range(8):
        harness.step()
    harness.scheduler.receive([AbortMsg(uid, 1, FinishReason.STOP, 2)])
    harness.step()
    assert {key.choice: ending.reason for key, ending in harness.choice_endings.items()} == {1: FinishReason.STOP}
    harness.abort(uid)
    harness.run()
    reasons = [harness.choice_endings[ReqKey(uid, choice)].reason for choice in range(3)]
    assert reasons == [FinishReason.ABORT, FinishReason.STOP, FinishReason.ABORT]


def test_the_first_choice_may_go_before_its_prompt_is_computed() -> None:
    harness = Harness(num_pages=256, max_prefill_length=4)
    uid = harness.send(PROMPT, 3, n=3, ignore_eos=True)
    harness.step()
    harness.scheduler.receive([AbortMsg(uid, 0)])
    harness.run()
    expected = expected_output(PROMPT, 3, ignore_eos=True)
    assert [harness.choice_outputs[ReqKey(uid, choice)] for choice in (1, 2)] == [expected, expected]


def test_a_refused_request_ends_every_choice() -> None:
    harness = Harness()
    uid = harness.send([1] * 100, 3, n=3)
    harness.run()
    assert [ending.error.code for ending in harness.choice_endings.values() if ending.error] == [
        "context_length_exceeded"
    ] * 3
    assert [event.choice for event in harness.events_of(events.ReqRefused)] == [0, 1, 2]  # type: ignore[attr-defined]
    assert not harness.choice_outputs, uid
