"""The protocol of the checks: blank answers, hints, errors in a reader's code, and how results show themselves."""

import pytest

from learnsgl.lessons.checks import NotAttempted, NotYet, Outcome, Result, attempt, check, reveal


@check
def check_even(answer, limit):
    if answer % 2:
        raise NotYet(f"{answer} is odd")
    return f"{answer} is even and the limit was {limit}"


def test_an_answer_is_blank_right_or_not_yet():
    assert check_even(..., 9).outcome is Outcome.NOT_ATTEMPTED
    assert check_even(None, 9).outcome is Outcome.NOT_ATTEMPTED
    assert check_even(3, 9) == Result(Outcome.NOT_YET, "3 is odd")
    assert check_even(4, limit=9) == Result(Outcome.RIGHT, "4 is even and the limit was 9")


def test_zero_and_false_are_answers():
    assert check_even(0, 9).outcome is Outcome.RIGHT
    assert check_even(False, 9).outcome is Outcome.RIGHT


def test_a_check_keeps_its_name_and_its_defects_are_not_taken_for_the_readers():
    assert check_even.__name__ == "check_even"
    with pytest.raises(TypeError):
        check_even("text", 9)


def test_attempt_tells_a_stub_from_an_answer():
    def unwritten(events):
        raise NotImplementedError

    with pytest.raises(NotAttempted):
        attempt(lambda: ...)
    with pytest.raises(NotAttempted):
        attempt(lambda: None)
    with pytest.raises(NotAttempted):
        attempt(unwritten, [])
    assert attempt(lambda a, b: a + b, 1, 2) == 3
    assert attempt(lambda: 0) == 0


def test_an_error_in_the_readers_function_is_named():
    with pytest.raises(NotYet, match=r"raised KeyError: 'sent'"):
        attempt(lambda event: event["sent"], {})
    with pytest.raises(NotYet, match="give it without calling it"):
        attempt(3.5)


def test_a_prediction_is_revealed_only_once_there_is_a_guess():
    hidden = reveal(..., 20, "Each token causes two.")
    assert hidden.outcome is Outcome.NOT_ATTEMPTED
    assert "20" not in hidden.message
    assert reveal(20, 20, "Each token causes two.").outcome is Outcome.RIGHT
    wrong = reveal(7, 20, "Each token causes two.")
    assert wrong.outcome is Outcome.GUESSED
    assert wrong.message == "you guessed 7, the recording says 20. Each token causes two."


def test_a_result_shows_itself_as_text_and_as_html():
    result = Result(Outcome.NOT_YET, "use a < b")
    assert str(result) == repr(result) == "not yet: use a < b"
    assert "use a &lt; b" in result._repr_html_()
    assert "not yet" in result._repr_html_()
