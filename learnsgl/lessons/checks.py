"""Exercises that say how far the reader is: *not attempted*, *not yet* with a hint, or *right*; and predictions.

A lesson's checks are functions under the decorator `check`; a notebook calls one with the reader's answer, and what
comes back shows itself. `reveal` belongs to a prediction: it tells the truth once there is a guess.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Concatenate, ParamSpec

P = ParamSpec("P")


class Outcome(StrEnum):
    """How far an answer is."""

    NOT_ATTEMPTED = "not attempted"
    """The stub is still as it was."""
    NOT_YET = "not yet"
    """There is an answer, and it isn't right; a hint says where to look."""
    RIGHT = "right"
    """It is right."""
    GUESSED = "guessed"
    """A prediction was made, and the truth is told: nothing was wrong with guessing."""


_COLOURS = {
    Outcome.NOT_ATTEMPTED: "#8c8c8c",
    Outcome.NOT_YET: "#c77700",
    Outcome.RIGHT: "#1f8a4c",
    Outcome.GUESSED: "#2f6fb5",
}


@dataclass(frozen=True)
class Result:
    """What a check says; it shows itself in a notebook and as text.

    Attributes:
        outcome: how far the answer is.
        message: what to do next, a hint, or what the right answer means.
    """

    outcome: Outcome
    message: str

    def __str__(self) -> str:
        return f"{self.outcome.value}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = _COLOURS[self.outcome]
        return (
            f'<div style="border-left: 4px solid {colour}; padding: 4px 12px">'
            f'<b style="color: {colour}">{self.outcome.value}</b>: {html.escape(self.message)}</div>'
        )


class NotAttempted(Exception):
    """The stub is untouched; raised by `attempt`."""


class NotYet(Exception):
    """The answer isn't right; the message is a hint, and doesn't give the answer away."""


def is_blank(answer: object) -> bool:
    """Whether an answer is still the stub's: `...`, or nothing."""
    return answer is None or answer is Ellipsis


def check(examine: Callable[Concatenate[Any, P], str]) -> Callable[Concatenate[Any, P], Result]:
    """Turn a function that examines an answer into a check.

    Args:
        examine: called with the answer and whatever else the check needs. It returns what a right answer means, and
            raises `NotYet` with a hint for one that isn't right. It is not called for a blank answer.

    Returns:
        A function of the same arguments that gives a `Result`.
    """

    @functools.wraps(examine)
    def checked(answer: Any, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            if is_blank(answer):
                raise NotAttempted
            return Result(Outcome.RIGHT, examine(answer, *args, **kwargs))
        except NotAttempted:
            return Result(Outcome.NOT_ATTEMPTED, "replace the dots, run that cell again, and then this one")
        except NotYet as hint:
            return Result(Outcome.NOT_YET, str(hint))

    return checked


def attempt(function: Callable[..., Any], *args: Any) -> Any:
    """Call the function that a reader has written.

    Returns:
        What it returns, unless that is blank.

    Raises:
        NotAttempted: it returned `None` or `...`, as the stub does.
        NotYet: it raised an error, which the hint names; or it isn't a function.
    """
    if not callable(function):
        raise NotYet(f"a function is expected here, and this is {type(function).__name__}: give it without calling it")
    try:
        answer = function(*args)
    except NotImplementedError:
        raise NotAttempted from None
    except Exception as error:
        raise NotYet(f"your function raised {type(error).__name__}: {error}") from error
    if is_blank(answer):
        raise NotAttempted
    return answer


def reveal(guess: object, truth: object, because: str) -> Result:
    """Tell the truth about a prediction once the reader has made one.

    Args:
        guess: the reader's; `...` while there is none.
        truth: what the recording says.
        because: why it is so.
    """
    if is_blank(guess):
        return Result(Outcome.NOT_ATTEMPTED, "put your guess in place of the dots; the recording's answer comes then")
    if guess == truth:
        return Result(Outcome.RIGHT, f"{truth}. {because}")
    return Result(Outcome.GUESSED, f"you guessed {guess}, the recording says {truth}. {because}")
