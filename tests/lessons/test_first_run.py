"""The checks of lesson 1.2: right, wrong in each way that has a hint, and untouched."""

import pytest

from learnsgl.lessons.checks import Outcome
from learnsgl.lessons.first_run import check_time_to_first_token
from learnsgl.trace.lives import requests


def moments(events):
    """What the notebook's stub gives its readers: when the request came, and when each chunk was sent."""
    received_ns = next(event["ns"] for event in events if event["kind"] == "http.received")
    return received_ns, [ns for event in events if event["kind"] == "http.streamed" for ns in event["sent_ns"]]


def right(events):
    received_ns, chunks_ns = moments(events)
    return (chunks_ns[1] - received_ns) / 1e9


def stub(events):
    moments(events)


def test_a_right_answer_is_right_and_agrees_with_the_life_of_the_request(events, recorded):
    result = check_time_to_first_token(right, events)
    assert result.outcome is Outcome.RIGHT
    (life,) = requests(recorded)
    assert result.message.startswith(f"{life.ttft_s * 1e3:.1f} ms")


def test_the_untouched_stub_is_not_attempted(events):
    assert check_time_to_first_token(stub, events).outcome is Outcome.NOT_ATTEMPTED
    assert check_time_to_first_token(..., events).outcome is Outcome.NOT_ATTEMPTED


def first_chunk(events):
    received_ns, chunks_ns = moments(events)
    return (chunks_ns[0] - received_ns) / 1e9


def last_chunk(events):
    received_ns, chunks_ns = moments(events)
    return (chunks_ns[-1] - received_ns) / 1e9


def committed(events):
    received_ns, _ = moments(events)
    return (next(event["ns"] for event in events if event["kind"] == "sched.committed") - received_ns) / 1e9


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (first_chunk, "holds no text"),
        (last_chunk, "the last chunk"),
        (committed, "the scheduler took over"),
        (lambda events: right(events) * 1e3, "another unit"),
        (lambda events: right(events) * 1e9, "another unit"),
        (lambda events: -right(events), "the earlier moment from the later"),
        (lambda events: 12.5, "12.5 s isn't it"),
        (lambda events: "soon", "a number of seconds is expected"),
        (lambda events: events[0]["sent_ns"], "raised KeyError"),
    ],
)
def test_a_wrong_answer_gets_the_hint_that_fits(answer, hint, events):
    result = check_time_to_first_token(answer, events)
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


def test_a_number_that_was_copied_is_not_enough(events):
    seconds = right(events)
    result = check_time_to_first_token(lambda events: seconds, events)
    assert result.outcome is Outcome.NOT_YET
    assert "from `events` alone" in result.message


def test_no_hint_gives_the_answer_away(events):
    for answer in (first_chunk, last_chunk, committed, lambda events: right(events) * 1e3):
        assert f"{right(events) * 1e3:.1f}" not in check_time_to_first_token(answer, events).message
