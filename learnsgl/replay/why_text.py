"""Sentences and the small words in them, for `why.py` and its helpers.

A sentence is what is known together with the events that say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from learnsgl.core import ReqKey
from learnsgl.replay.history_data import DeviceStep, Letter, ReqHistory
from learnsgl.trace.checks.base import Place

MAX_NAMED = 6
"""Requests that a sentence names; the others are counted."""


class Sentence(NamedTuple):
    """Something that is known.

    Attributes:
        text: in words.
        places: the events that say so.
    """

    text: str
    places: tuple[Place, ...] = ()


def said(text: str, places: Iterable[Place] = ()) -> Sentence:
    """A sentence that names each event once."""
    return Sentence(text, tuple(dict.fromkeys(places)))


def tokens_of(start: int, length: int, req: ReqHistory | None) -> str:
    """`tokens 256 to 511 of 1,530`, of a request's prompt."""
    of = "" if req is None or req.prompt_len is None else f" of {req.prompt_len:,}"
    return f"tokens {start:,} to {start + length - 1:,}{of}"


def name_of(key: ReqKey) -> str:
    """`request 4`, with its choice where that isn't the first."""
    return f"request {key.uid}" + (f".{key.choice}" if key.choice else "")


def requests(keys: Sequence[ReqKey]) -> str:
    """`request 4`, `requests 4 and 9`, or the first few and how many more."""
    names = [str(key.uid) + (f".{key.choice}" if key.choice else "") for key in keys]
    return f"request{'s' if len(names) != 1 else ''} {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; of many the first few, and how many more."""
    shown = list(names[:MAX_NAMED]) if len(names) > MAX_NAMED + 1 else list(names)
    if len(names) > len(shown):
        shown.append(f"{len(names) - MAX_NAMED:,} more")
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}" if shown else "none"


def ordinal(number: int) -> str:
    """`first`, `second`, `third`, `4th`."""
    words = {1: "first", 2: "second", 3: "third"}
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return words.get(number, f"{number}{suffix}")


def places_of(step: DeviceStep | None, *names: str) -> tuple[Place, ...]:
    """The events of a step, by the names that `DeviceStep.places` has."""
    return () if step is None else tuple(step.places[name] for name in names if name in step.places)


def some(place: Place | None) -> tuple[Place, ...]:
    """The event, if there is one."""
    return () if place is None else (place,)


def ends(letter: Letter | None) -> tuple[Place, ...]:
    """The events of a message's sender and receiver."""
    return () if letter is None else some(letter.sent) + some(letter.received)
