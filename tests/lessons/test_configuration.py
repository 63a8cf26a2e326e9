"""The exercise of lesson 1.6: right, wrong in each way that has a hint, and untouched; and what its notebook calls."""

import subprocess
import sys
from pathlib import Path

import pytest

from learnsgl.lessons.checks import Outcome
from learnsgl.lessons.configuration import (
    STEP_FIELDS,
    changed_option,
    check_changed_option,
    check_first_difference,
    factor,
    first_where,
    side_by_side,
    type_into_chat,
)
from learnsgl.replay.diff import diff
from learnsgl.trace.reader import Trace

TRACES = Path(__file__).parents[2] / "traces"


def pair(a, b):
    return tuple(Trace.open(TRACES / f"{name}.trace.zip") for name in (a, b))


@pytest.fixture(scope="module")
def pairs():
    """As the notebook gives them."""
    return {
        "policy": pair("long_prompts", "mixed_policy"),
        "cache": pair("pair_cache_radix", "pair_cache_naive"),
        "pages": pair("pair_pages_small", "pair_pages_large"),
    }


# ---------------------------------------------------------------- the option


def right_option(a, b):
    for area, options in a["config"].items():
        for name, value in options.items():
            if b["config"][area][name] != value:
                return name, value, b["config"][area][name]
    raise AssertionError("none differs")


def test_a_right_option_is_right(pairs):
    result = check_changed_option(right_option, pairs)
    assert result.outcome is Outcome.RIGHT
    for words in ("policy, prefill-first in A and mixed in B", "cache_type, radix", "num_pages, 256 in A and 4096"):
        assert words in result.message


def test_an_option_as_it_is_typed_is_right(pairs):
    def typed(a, b):
        name, *values = right_option(a, b)
        return "--" + name.replace("_", "-"), *values

    assert check_changed_option(typed, pairs).outcome is Outcome.RIGHT


def swapped(a, b):
    name, of_a, of_b = right_option(a, b)
    return name, of_b, of_a


def became(a, b):
    return "max_model_len", a["engine"]["max_model_len"], b["engine"]["max_model_len"]


WRONG_OPTIONS = [
    ("policy", swapped, "the first manifest comes first"),
    ("policy", lambda a, b: ("policy", 1, 2), "not its values: 1, 2"),
    ("policy", lambda a, b: ("scheduler", a["config"]["scheduler"], b["config"]["scheduler"]), "is an area"),
    ("policy", lambda a, b: ("run_id", a["run_id"], b["run_id"]), "is no option"),
    ("pages", became, "what the engine became"),
    ("policy", lambda a, b: ("overlap", True, True), "doesn't differ"),
    ("policy", lambda a, b: "policy", "(name, value in A, value in B) is expected"),
    ("policy", lambda a, b: a["options"], "raised KeyError"),
]


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG_OPTIONS)
def test_a_wrong_option_gets_the_hint_that_fits(name, answer, hint, pairs):
    result = check_changed_option(answer, {name: pairs[name]})
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


def test_an_option_that_was_copied_is_not_enough(pairs):
    result = check_changed_option(lambda a, b: ("policy", "prefill-first", "mixed"), pairs)
    assert result.outcome is Outcome.NOT_YET
    assert result.message.startswith("cache: 'policy' doesn't differ")


def test_no_hint_about_options_gives_the_answer_away(pairs):
    for name, answer, _ in WRONG_OPTIONS[3:]:
        message = check_changed_option(answer, {name: pairs[name]}).message
        truth = changed_option(*pairs[name])
        assert str(truth.b) not in message
        assert f"{truth.name}, " not in message


def test_two_recordings_with_more_or_less_than_one_option_are_refused(pairs):
    trace = pairs["policy"][0]
    with pytest.raises(ValueError, match="and these do: none"):
        changed_option(trace, trace)
    with pytest.raises(ValueError, match=r"these do: num_pages, .*max_prefill_length"):
        changed_option(trace, pairs["pages"][0])


# ---------------------------------------------------------------- the step


def steps_of(events):
    return [event for event in events if event["kind"] == "sched.step"]


def right_step(a, b):
    return first_where(STEP_FIELDS, steps_of(a), steps_of(b))


def test_a_right_step_is_right_and_agrees_with_diff(pairs):
    result = check_first_difference(right_step, pairs)
    assert result.outcome is Outcome.RIGHT
    for name, (a, b) in pairs.items():
        parting = diff(a, b).parting
        assert f"{name}: step {parting.step}, in {parting.aspect.label}" in result.message


WRONG_STEPS = [
    ("policy", lambda a, b: right_step(a, b) - 1, "counted from 1"),
    ("pages", lambda a, b: 0, "counted from 1"),
    ("policy", lambda a, b: 1, "moments and digests always differ"),
    ("cache", lambda a, b: next(x["step"] for x, y in zip(a, b, strict=False) if x != y and "step" in x), "moments"),
    ("policy", lambda a, b: next(x["event"] for x in steps_of(a) if x["step"] == right_step(a, b)), "of an event"),
    ("policy", lambda a, b: first_where(("num_waiting",), steps_of(a), steps_of(b)), "`num_waiting` alone"),
    ("cache", lambda a, b: right_step(a, b) - 2, "too early"),
    ("cache", lambda a, b: right_step(a, b) + 200, "too late"),
    ("cache", lambda a, b: "17", "the number of a step is expected"),
    ("cache", lambda a, b: True, "the number of a step is expected"),
    ("cache", lambda a, b: a["steps"], "raised TypeError"),
]


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG_STEPS)
def test_a_wrong_step_gets_the_hint_that_fits(name, answer, hint, pairs):
    result = check_first_difference(answer, {name: pairs[name]})
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message
    assert f"step {diff(*pairs[name]).parting.step}," not in result.message


def test_a_step_that_was_copied_is_not_enough(pairs):
    step = diff(*pairs["policy"]).parting.step
    result = check_first_difference(lambda a, b: step, pairs)
    assert result.outcome is Outcome.NOT_YET
    assert result.message.startswith("cache: ")


def test_recordings_that_part_only_by_moments_are_refused():
    with pytest.raises(ValueError, match="don't part by a decision"):
        check_first_difference(lambda a, b: 1, {"rows": pair("pair_running_1", "pair_running_8")})


@pytest.mark.parametrize("check", [check_changed_option, check_first_difference])
def test_the_untouched_stub_is_not_attempted(check, pairs):
    assert check(lambda a, b: ..., pairs).outcome is Outcome.NOT_ATTEMPTED
    assert check(..., pairs).outcome is Outcome.NOT_ATTEMPTED


# ---------------------------------------------------------------- what the notebook calls


def test_a_factor_has_no_direction():
    assert factor(2, 5) == factor(5, 2) == 2.5
    with pytest.raises(ValueError, match="above 0"):
        factor(0, 1)


def test_totals_stand_side_by_side(pairs):
    found = diff(*pairs["cache"])
    head, ttft, *_, steps = side_by_side(found, ("radix", "naive")).splitlines()
    assert head.split() == ["radix", "naive", "factor"]
    assert ttft.split()[-3:-1] == [f"{side.ttft.p50 * 1e3:,.0f}" for side in (found.a, found.b)]
    assert steps.split()[:3] == ["steps", str(found.a.num_steps), str(found.b.num_steps)]
    assert float(steps.split()[3]) == pytest.approx(factor(found.a.num_steps, found.b.num_steps), abs=0.01)


def test_what_a_chat_writes_comes_back(monkeypatch):
    seen = {}

    def run(words, **options):
        seen.update(options, words=words)
        return subprocess.CompletedProcess(words, 0, b"hello \xff\n", b"")

    monkeypatch.setattr(subprocess, "run", run)
    assert type_into_chat("learnsgl chat --max-tokens 4", ["Hi.", "/exit"]) == "hello \ufffd\n"
    assert seen["words"] == [sys.executable, "-m", "learnsgl", "chat", "--max-tokens", "4"]
    assert seen["input"] == b"Hi.\n/exit\n"
    assert seen["check"]
