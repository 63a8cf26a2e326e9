"""The exercise of lesson 1.4: right, wrong in each way that has a hint, in part, and untouched; and its trails."""

from pathlib import Path

import pytest

from learnsgl.errors import TraceError
from learnsgl.lessons.checks import Outcome
from learnsgl.lessons.request_life import PARTS, check_split_ttft, trail_of
from learnsgl.replay.ledger import Ledgers
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import to_json

TRACES = Path(__file__).parents[2] / "traces"


@pytest.fixture(scope="module")
def chats():
    return Trace.open(TRACES / "chat_concurrent.trace.zip")


@pytest.fixture(scope="module")
def long_prompts():
    return Trace.open(TRACES / "long_prompts.trace.zip")


def stub(trail):
    """As it stands in the notebook."""
    queue = trail.scheduled_ns - trail.queued_ns
    messages = ...
    others = ...
    prefill = ...
    return {"queue": queue, "messages": messages, "others": others, "prefill": prefill}


def right(trail):
    others = [step for step in trail.steps if not step.is_mine]
    return {
        "queue": trail.scheduled_ns - trail.queued_ns,
        "messages": trail.tokenize_start_ns - trail.tokenize_sent_ns + trail.queued_ns - trail.user_sent_ns,
        "others": sum(step.end_ns - max(step.start_ns, trail.admitted_ns) for step in others),
        "prefill": sum(step.forward_end_ns - step.start_ns for step in trail.steps if step.is_mine),
    }


def changed(part, value):
    """A right answer but for one part."""
    return lambda trail: right(trail) | {part: value(trail)}


def test_a_right_answer_is_right_for_every_request(chats, long_prompts):
    result = check_split_ttft(right, [chats, long_prompts])
    assert result.outcome is Outcome.RIGHT
    assert "all 17 requests of 2 recordings" in result.message


def test_the_untouched_stub_is_not_attempted(chats):
    assert check_split_ttft(stub, [chats]).outcome is Outcome.NOT_ATTEMPTED
    assert check_split_ttft(..., [chats]).outcome is Outcome.NOT_ATTEMPTED
    assert check_split_ttft(lambda trail: ..., [chats]).outcome is Outcome.NOT_ATTEMPTED


def test_a_part_that_is_done_is_said_with_those_that_are_dots(chats):
    result = check_split_ttft(lambda trail: stub(trail) | {"messages": right(trail)["messages"]}, [chats])
    assert result.outcome is Outcome.NOT_YET
    assert result.message == "as the ledger has it so far: queue, messages; still dots: others, prefill"


WRONG = [
    ("messages", lambda trail: trail.tokenize_start_ns - trail.tokenize_sent_ns, "to the tokenizer alone"),
    ("messages", lambda trail: trail.queued_ns - trail.user_sent_ns, "to the scheduler alone"),
    ("messages", lambda trail: trail.queued_ns - trail.tokenize_sent_ns, "what the tokenizer does"),
    ("messages", lambda trail: -right(trail)["messages"], "time runs forward"),
    ("messages", lambda trail: right(trail)["messages"] / 1e6, "another unit"),
    ("messages", lambda trail: trail.first_text_ns - trail.received_ns, "too much"),
    ("messages", lambda trail: 0, "too little"),
    ("others", lambda trail: sum(s.end_ns - s.start_ns for s in trail.steps if not s.is_mine), "from the moment"),
    ("others", lambda trail: sum(s.end_ns - s.start_ns for s in trail.steps if s.is_mine), "with the request in"),
    ("prefill", lambda trail: sum(s.end_ns - s.start_ns for s in trail.steps if s.is_mine), "sampling is a cause"),
    ("prefill", lambda trail: sum(s.forward_end_ns - s.start_ns for s in trail.steps), "not every step"),
    ("prefill", lambda trail: "a while", "a number of nanoseconds, and is 'a while'"),
    ("prefill", lambda trail: trail.answered_ns, "raised AttributeError"),
]


@pytest.mark.parametrize(("part", "value", "hint"), WRONG)
def test_a_wrong_part_gets_the_hint_that_fits(part, value, hint, chats):
    result = check_split_ttft(changed(part, value), [chats])
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


@pytest.mark.parametrize(
    ("part", "value", "hint"),
    [
        ("others", lambda trail: _others_without_sampling(trail), "others' sampling keeps"),
        ("prefill", lambda trail: _chunk(trail, 0), "several steps"),
        ("prefill", lambda trail: _chunk(trail, -1), "several steps"),
    ],
)
def test_what_is_wrong_only_for_long_prompts_or_beside_others_is_found(part, value, hint, chats, long_prompts):
    result = check_split_ttft(changed(part, value), [chats, long_prompts])
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


def _others_without_sampling(trail):
    others = [step for step in trail.steps if not step.is_mine]
    return sum(step.forward_end_ns - max(step.start_ns, trail.admitted_ns) for step in others)


def _chunk(trail, place):
    step = [step for step in trail.steps if step.is_mine][place]
    return step.forward_end_ns - step.start_ns


def test_an_answer_of_another_form_is_said(chats):
    assert "a dict with the keys" in check_split_ttft(lambda trail: 5, [chats]).message
    assert "no key 'prefill'" in check_split_ttft(lambda trail: dict.fromkeys(PARTS[:3], 1), [chats]).message


def test_no_hint_gives_the_answer_away(chats):
    truth = {value for _, trail in _trails(chats) for value in right(trail).values()}
    for part, value, _ in WRONG:
        message = check_split_ttft(changed(part, value), [chats]).message
        assert not [number for number in truth if f"{number:,}" in message or str(number / 1e6)[:5] in message]


def _trails(trace):
    events = [to_json(entry) for entry in trace.events()]
    return [(uid, trail_of(events, uid)) for uid, _ in Ledgers(trace).keys]


def test_a_trail_goes_forward_and_ends_where_the_ledger_does(chats, long_prompts):
    for trace in (chats, long_prompts):
        ledgers = Ledgers(trace)
        for uid, trail in _trails(trace):
            moments = (
                trail.received_ns, trail.tokenize_sent_ns, trail.tokenize_start_ns, trail.user_sent_ns,
                trail.queued_ns, trail.scheduled_ns, trail.admitted_ns, trail.steps[-1].end_ns, trail.first_text_ns,
            )  # fmt: skip
            assert list(moments) == sorted(moments)
            assert trail.steps[-1].is_mine
            assert trail.first_text_ns - trail.received_ns == ledgers.of(uid).ttft_ns


def test_a_request_without_a_trail_is_said(events):
    with pytest.raises(TraceError, match="don't hold request 9's way to its first token"):
        trail_of(events, 9)
    with pytest.raises(TraceError, match="level full"):
        trail_of([event for event in events if event["kind"] != "msg.sent"], 1)
