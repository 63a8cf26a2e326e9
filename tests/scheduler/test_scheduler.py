"""What the scheduler decides, case by case, on the fake executor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from learnsgl.core import FinishReason, SamplingParams, Stage
from learnsgl.errors import TraceViolation
from learnsgl.message.types import CallReply, ErrorInfo, FlushCacheMsg, UserMsg
from learnsgl.trace import events
from learnsgl.trace.fold import Fold, numbers
from learnsgl.trace.state import digest_of
from tests.fakes import EOS_ID, VOCAB_SIZE, expected_output
from tests.scheduler.harness import Harness

LONG = [1 + i % 90 for i in range(40)]


def step_lens(harness: Harness) -> list[list[int]]:
    return [step.lens.tolist() for step in harness.executor.steps]


def waits(harness: Harness) -> list[tuple[int, str]]:
    return [(e.uid, e.reason) for e in harness.events_of(events.SchedBlocked)]


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("overlap", [True, False])
def test_one_request(overlap: bool) -> None:
    harness = Harness(overlap=overlap)
    uid = harness.send([3, 1, 4], 5, ignore_eos=True)
    harness.run()
    assert harness.outputs[uid] == expected_output([3, 1, 4], 5, ignore_eos=True)
    ending = harness.endings[uid]
    assert (ending.reason, ending.num_prompt_tokens, ending.num_cached_tokens) == (FinishReason.LENGTH, 3, 0)
    assert ending.num_generated_tokens == 5


def prompt_that_ends_itself() -> list[int]:
    """A prompt whose answer has an end-of-sequence token as its third to tenth."""
    for first in range(1, VOCAB_SIZE):
        for second in range(1, VOCAB_SIZE):
            if 3 <= len(expected_output([first, second], 11)) <= 10:
                return [first, second]
    raise AssertionError


@pytest.mark.parametrize("overlap", [True, False])
def test_end_of_sequence_stops_and_is_hidden(overlap: bool) -> None:
    prompt = prompt_that_ends_itself()
    harness = Harness(overlap=overlap)
    uid = harness.send(prompt, 30)
    harness.run()
    assert harness.outputs[uid][-1] == EOS_ID
    assert harness.endings[uid].reason is FinishReason.STOP
    assert harness.endings[uid].num_generated_tokens == len(harness.outputs[uid])
    num_steps = len(harness.executor.steps)
    assert num_steps == len(harness.outputs[uid]) + overlap  # with overlap, one step is wasted after the end


def test_max_tokens_beyond_the_context_is_cut_to_it() -> None:
    harness = Harness(max_model_len=16, num_pages=16)
    uid = harness.send([5, 6, 7], 1_000_000, ignore_eos=True)
    harness.run()
    assert len(harness.outputs[uid]) == 13
    assert harness.endings[uid].reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [
        ([1] * 16, "context_length_exceeded", "16 tokens long, and the context holds 16"),
        ([1] * 50, "context_length_exceeded", "shorten the prompt to 15"),
        ([], "invalid_value", "empty"),
        ([1, VOCAB_SIZE], "invalid_value", f"token id {VOCAB_SIZE}"),
        ([-1], "invalid_value", "token id -1"),
    ],
)
def test_what_can_never_be_served_is_refused(prompt: list[int], code: str, words: str) -> None:
    harness = Harness(max_model_len=16, num_pages=16)
    uid = harness.send(prompt, 4)
    other = harness.send([1, 2], 2, ignore_eos=True)
    harness.run()
    error = harness.endings[uid].error
    assert error is not None
    assert error.code == code
    assert words in error.message
    assert len(harness.outputs[other]) == 2


def test_an_id_in_use_is_refused() -> None:
    harness = Harness()
    uid = harness.send([1, 2], 2)
    harness.scheduler.receive([UserMsg(uid, np.array([1], dtype=np.int32).tobytes(), SamplingParams())])
    reply = harness.scheduler.step()
    assert reply is not None
    assert reply.endings[0].error is not None
    assert reply.endings[0].error.code == "invalid_request_id"


# ---------------------------------------------------------------- chunks, batches, policies


def test_a_long_prompt_is_cut_into_chunks() -> None:
    harness = Harness(max_prefill_length=16)
    uid = harness.send(LONG, 2, ignore_eos=True)
    harness.run()
    assert step_lens(harness)[:4] == [[16], [16], [8], [1]]
    assert harness.outputs[uid] == expected_output(LONG, 2, ignore_eos=True)


def test_prompts_share_the_budget_of_a_step() -> None:
    harness = Harness(max_prefill_length=16, cache_type="naive")
    for i in range(3):
        harness.send([10 + i] * 7, 3, ignore_eos=True)
    harness.step()
    assert step_lens(harness) == [[7, 7, 2]]


def test_prefill_first_lets_answers_wait_and_mixed_does_not() -> None:
    lens = {}
    for policy in ("prefill-first", "mixed"):
        harness = Harness(max_prefill_length=16, policy=policy, overlap=False)
        harness.send([9, 9], 12, ignore_eos=True)
        harness.step()
        harness.send(LONG, 2, ignore_eos=True)
        harness.run()
        lens[policy] = step_lens(harness)[1:4]
    assert lens["prefill-first"] == [[16], [16], [8]]
    assert lens["mixed"] == [[15, 1], [15, 1], [10, 1]]


@pytest.mark.parametrize("overlap", [False, True])
def test_answers_wait_for_prompts_only_so_many_steps_in_a_row(overlap: bool) -> None:
    harness = Harness(num_pages=400, max_prefill_length=8, max_decode_wait_steps=3, cache_type="naive", overlap=overlap)
    answering = harness.send([9, 9], 12, ignore_eos=True)
    harness.step()
    prompts = [harness.send([10 + i] * 20, 2, ignore_eos=True) for i in range(6)]
    harness.run()
    kinds = "".join("p" if e.num_prefill else "d" for e in harness.events_of(events.SchedStep))
    assert kinds.startswith("pppp" + "dppp" * 4)  # the first one is the answering request's own prompt
    assert "ppppp" not in kinds
    assert {uid for uid, reason in waits(harness) if reason == "policy"} <= set(prompts)
    assert any(reason == "policy" for _, reason in waits(harness))
    for uid in (answering, *prompts):
        assert harness.outputs[uid] == expected_output(
            harness.prompts[uid], harness.sampling[uid].max_tokens, ignore_eos=True
        )


def test_prompts_have_every_step_while_no_answer_runs() -> None:
    harness = Harness(num_pages=400, max_model_len=200, max_prefill_length=8, max_decode_wait_steps=1)
    harness.send([5] * 80, 2, ignore_eos=True)
    harness.run()
    assert step_lens(harness)[:10] == [[8]] * 10


def test_continuous_batching_admits_while_others_decode() -> None:
    harness = Harness(num_rows=2)
    first = harness.send([1, 2], 10, ignore_eos=True)
    for _ in range(4):
        harness.step()
    second = harness.send([3, 4], 2, ignore_eos=True)
    third = harness.send([5, 6], 2, ignore_eos=True)
    harness.run()
    assert (third, "rows") in waits(harness)
    ended = [uid for e in harness.events_of(events.ReqFinished) for uid in numbers(e.uids, "i8").tolist()]
    assert ended.index(second) < ended.index(first)


def test_next_step_is_submitted_before_the_last_result_is_seen() -> None:
    harness = Harness()
    harness.send([1, 2, 3], 6, ignore_eos=True)
    harness.run()
    order = [
        (type(e).__name__, e.step) for e in harness.recorder.events
        if isinstance(e, events.BatchSubmitted | events.BatchCollected)
    ]  # fmt: skip
    assert order.index(("BatchSubmitted", 2)) < order.index(("BatchCollected", 1))


# ---------------------------------------------------------------- admission


def test_admission_promises_pages_to_the_end() -> None:
    harness = Harness(num_pages=20, max_model_len=20, cache_type="naive")
    first = harness.send([1] * 5, 10, ignore_eos=True)  # 14 pages at its longest
    second = harness.send([2] * 3, 5, ignore_eos=True)  # 7: one more than is left
    harness.step()
    assert harness.stage_of(first) is Stage.DECODE
    assert harness.stage_of(second) is None
    assert waits(harness) == [(second, "pages")]
    blocked = harness.events_of(events.SchedBlocked)[0]
    assert (blocked.needed, blocked.free, blocked.promised) == (7, 20, 14)
    harness.run()
    assert len(harness.outputs[second]) == 5


def test_a_request_as_large_as_the_memory_is_served_alone() -> None:
    harness = Harness(num_pages=16, max_model_len=16)
    uids = [harness.send([i + 1] * 3, 100, ignore_eos=True) for i in range(3)]
    harness.run()
    assert [len(harness.outputs[uid]) for uid in uids] == [13, 13, 13]


# ---------------------------------------------------------------- sharing


def test_a_shared_prefix_is_computed_once_by_requests_of_one_batch() -> None:
    harness = Harness(prefix_wait_tokens=8)
    first = harness.send([*LONG[:20], 7], 4, ignore_eos=True)
    second = harness.send([*LONG[:20], 8], 4, ignore_eos=True)
    harness.run()
    assert waits(harness) == [(second, "prefix")]
    assert harness.events_of(events.SchedBlocked)[0].other_uid == first
    assert harness.endings[second].num_cached_tokens == 20
    assert harness.outputs[second] == expected_output([*LONG[:20], 8], 4, ignore_eos=True)


def test_a_third_request_with_the_same_beginning_does_not_spoil_the_sharing() -> None:
    harness = Harness(num_pages=200, max_model_len=64, prefix_wait_tokens=8, max_prefill_length=64)
    harness.send([*LONG[:5], 77, 78], 8, ignore_eos=True)  # shares five tokens with the others: too few to wait for
    harness.send([*LONG[:30], 7], 4, ignore_eos=True)
    third = harness.send([*LONG[:30], 8], 4, ignore_eos=True)
    harness.run()
    assert harness.endings[third].num_cached_tokens == 30


def test_waiting_for_a_prefix_holds_nobody_else_up() -> None:
    harness = Harness(prefix_wait_tokens=8, max_prefill_length=32)
    harness.send([*LONG[:20], 7], 4)
    waiting = harness.send([*LONG[:20], 8], 4)
    other = harness.send([80, 81], 4)
    harness.step()
    assert harness.stage_of(waiting) is None
    assert harness.stage_of(other) is not None


def test_a_waiter_goes_on_when_the_request_it_waits_for_is_aborted() -> None:
    harness = Harness(prefix_wait_tokens=8, max_prefill_length=8)
    first = harness.send([*LONG, 7], 4)
    second = harness.send([*LONG, 8], 4, ignore_eos=True)
    harness.step()
    harness.abort(first)
    harness.run()
    assert harness.endings[first].reason is FinishReason.ABORT
    assert harness.outputs[second] == expected_output([*LONG, 8], 4, ignore_eos=True)


@pytest.mark.parametrize("page_size", [1, 2, 4])
def test_the_next_turn_of_a_chat_finds_the_answer_in_the_cache(page_size: int) -> None:
    harness = Harness(num_pages=64, page_size=page_size)
    for length in range(1, 9):  # every place of the end in a page
        prompt = [length, 50, 60]
        first = harness.send(prompt, length, ignore_eos=True)
        harness.run()
        turn = [*prompt, *harness.outputs[first], 11, 12]
        second = harness.send(turn, 2, ignore_eos=True)
        harness.run()
        computed = 3 + length - 1  # the last token's KV was never computed
        assert harness.endings[second].num_cached_tokens == computed // page_size * page_size
        assert harness.outputs[second] == expected_output(turn, 2, ignore_eos=True)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    harness = Harness()
    harness.send([4, 5, 6], 3, ignore_eos=True)
    harness.run()
    again = harness.send([4, 5, 6], 3, ignore_eos=True)
    harness.run()
    assert harness.endings[again].num_cached_tokens == 2


# ---------------------------------------------------------------- aborts


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 6])
@pytest.mark.parametrize("overlap", [True, False])
def test_abort_in_every_state_gives_everything_back(steps: int, overlap: bool) -> None:
    harness = Harness(max_prefill_length=16, overlap=overlap, cache_type="naive")
    uid = harness.send(LONG, 6, ignore_eos=True)
    for _ in range(steps):
        harness.step()
    harness.abort(uid)
    harness.run()
    assert harness.endings[uid].reason is FinishReason.ABORT
    assert harness.scheduler.running.allocator.num_free == 64
    assert harness.scheduler.running.table.num_used_rows == 0


def test_pages_of_an_aborted_request_return_only_when_its_step_is_collected() -> None:
    harness = Harness(cache_type="naive")
    uid = harness.send([1, 2, 3], 10, ignore_eos=True)
    harness.step()
    harness.abort(uid)
    assert harness.scheduler.running.allocator.num_free == 61
    harness.step()
    assert harness.scheduler.running.allocator.num_free == 64


def test_a_stop_string_counts_the_tokens_that_are_kept() -> None:
    harness = Harness()
    uid = harness.send([1, 2, 3], 20, ignore_eos=True)
    while len(harness.outputs.get(uid, [])) < 5:
        harness.step()
    harness.abort(uid, stop_after=3)
    harness.run()
    ending = harness.endings[uid]
    assert (ending.reason, ending.num_generated_tokens) == (FinishReason.STOP, 3)


def test_an_abort_of_nobody_changes_nothing() -> None:
    harness = Harness()
    uid = harness.send([1, 2], 2, ignore_eos=True)
    harness.abort(999)
    harness.run()
    harness.abort(uid)  # it has ended
    assert not harness.scheduler.has_work
    assert [e.found for e in harness.events_of(events.ReqAborting)] == [False, False]


def test_when_the_engine_fails_every_request_gets_an_error() -> None:
    harness = Harness(num_rows=1)
    uids = [harness.send([i + 1], 5) for i in range(3)]
    harness.step()
    reply = harness.scheduler.fail_all(ErrorInfo("the engine failed", 500, "engine_error"))
    assert sorted(e.uid for e in reply.endings) == uids
    assert {e.reason for e in reply.endings} == {FinishReason.ERROR}


# ---------------------------------------------------------------- the trace is complete


def recorded() -> list[events.Event]:
    harness = Harness(max_prefill_length=16, prefix_wait_tokens=4, num_pages=48, max_model_len=48)
    for i in range(12):
        harness.send([*LONG[: 5 + i], 90 + i % 3], 6, ignore_eos=True)
    harness.run()
    return harness.recorder.events


def fold(stream: list[events.Event], *, from_start: bool = True) -> Fold:
    folded = Fold(from_start=from_start)
    for event in stream:
        folded.apply(event)
    folded.finish()
    return folded


STATE_EVENTS = [
    events.ReqQueued, events.SchedAdmitted, events.ReqReleased, events.PageAllocated, events.CacheTouched,
    events.CacheLocked, events.CacheSplit, events.CacheInserted, events.CacheMoved, events.SchedCommitted,
    events.ReqFinished, events.CacheEvicted,
]  # fmt: skip


@pytest.mark.parametrize("kind", STATE_EVENTS)
def test_a_change_that_is_not_in_the_trace_is_found(kind: type[events.Event]) -> None:
    stream = recorded()
    fold(stream)
    found = [i for i, event in enumerate(stream) if type(event) is kind]
    assert found, "the recording has no such event"
    with pytest.raises(TraceViolation):
        fold([event for event in stream if type(event) is not kind])
    if kind is not events.CacheTouched:  # one use of a path can be overwritten by the next before any check
        for i in (found[0], found[len(found) // 2], found[-1]):
            with pytest.raises(TraceViolation):
                fold(stream[:i] + stream[i + 1 :])


def test_a_trace_can_be_entered_at_a_keyframe() -> None:
    harness = Harness(max_prefill_length=8, num_pages=48, max_model_len=48, prefix_wait_tokens=4)
    for i in range(150):
        harness.send([*LONG[: 1 + i % 20], 1 + i % 9], 4, ignore_eos=True)
        harness.step()
        harness.step()
    harness.run()
    stream = harness.recorder.events
    numbers_of_first_slices = [i for i, e in enumerate(stream) if isinstance(e, events.TraceKeyframe) and e.index == 0]
    assert len(numbers_of_first_slices) > 3
    for first_slice in numbers_of_first_slices:
        for start in (first_slice, first_slice - 20):  # events before the keyframe are passed over
            entered = fold(stream[start:], from_start=False)
            assert entered.is_known
            assert digest_of(entered.state) == harness.scheduler.journal.value


def test_a_large_state_is_written_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learnsgl.scheduler.live_state.SLICE_NODES", 2)
    monkeypatch.setattr("learnsgl.scheduler.live_state.SLICE_PAGES", 10)
    harness = Harness(max_prefill_length=8, num_pages=48, max_model_len=48)
    for i in range(200):
        harness.send([1 + i % 20, 1 + i % 9, *LONG[: i % 7]], 4, ignore_eos=True)
        harness.step()
        harness.step()
    slices = harness.events_of(events.TraceKeyframe)
    steps = {e.keyframe: set() for e in slices}
    where = {id(e): i for i, e in enumerate(harness.recorder.events)}
    for before, after in itertools.pairwise(slices):
        if before.keyframe == after.keyframe:
            steps[before.keyframe].add(where[id(after)] - where[id(before)])
    assert max(max(gaps, default=0) for gaps in steps.values()) > 1
    harness.run()
    assert harness.fold.num_keyframes >= 2


def test_the_cache_is_flushed_only_while_nothing_runs() -> None:
    harness = Harness()
    harness.send([1, 2, 3, 4, 5], 3, ignore_eos=True)
    harness.scheduler.receive([FlushCacheMsg(7)])
    harness.step()
    (refused,) = harness.call_replies
    assert refused.error is not None
    assert (refused.call, refused.error.code) == (7, "server_busy")
    while harness.scheduler.has_work:
        harness.step()
    num_cached = harness.scheduler.running.cache.num_evictable
    harness.scheduler.receive([FlushCacheMsg(8)])
    harness.step()
    assert harness.call_replies[1:] == [CallReply(8, num_pages=num_cached)]
    assert num_cached == 7, "all but the last token, whose KV nobody needed"
    assert harness.scheduler.running.allocator.num_free == harness.scheduler.running.allocator.num_pages
    uid = harness.send([1, 2, 3, 4, 5], 3, ignore_eos=True)
    harness.run()
    assert harness.endings[uid].num_cached_tokens == 0
