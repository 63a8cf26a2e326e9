"""What lesson 1.2, "First run", asks of its readers. Its notebook calls the checks in here.

Events come as dicts, as `learnsgl trace cat` prints them, so that an answer needs nothing but Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from learnsgl.lessons.checks import NotYet, attempt, check

JsonEvent = dict[str, Any]

NEAR_S = 5e-6
"""Answers that lie so close together count as the same."""
DELAY_NS = 1_000_000_000


@check
def check_time_to_first_token(function: Callable[[list[JsonEvent]], float], events: Sequence[JsonEvent]) -> str:
    """Whether a function computes the time to first token (TTFT) of the first request in `events`, in seconds.

    It is run twice: on the events, and on the same ones with everything after `http.received` one second later, so
    that a number copied from elsewhere in the lesson isn't enough.
    """
    truth = _ttft_s(events)
    answer = _number(attempt(function, list(events)))
    if hint := _hint(answer, truth, events):
        raise NotYet(hint)
    later = _delayed(events)
    if not _near(_number(attempt(function, later)), _ttft_s(later)):
        raise NotYet("that is right for this recording, but not for another one: compute it from `events` alone")
    return f"{truth * 1e3:.1f} ms from the arrival of the request until the client was sent its first text"


def _number(answer: Any) -> float:
    try:
        return float(answer)
    except (TypeError, ValueError):
        raise NotYet(f"a number of seconds is expected, and your function gave {answer!r}") from None


def _hint(answer: float, truth: float, events: Sequence[JsonEvent]) -> str | None:
    """What is wrong with an answer, as far as its value tells; `None` for a right one."""
    if _near(answer, truth):
        return None
    received_ns, chunks_ns = _received_ns(events), _chunks_ns(events)
    if _near(answer, (chunks_ns[0] - received_ns) / 1e9):
        return "that is the first chunk, and it holds no text: look at what stream_chat_completions yields first"
    if answer < 0:
        return "time runs forward: subtract the earlier moment from the later one"
    if any(_near(answer / factor, truth) for factor in (1e3, 1e6, 1e9)):
        return "the right moments, in another unit: the clock counts nanoseconds, and seconds are asked for"
    committed_ns = next(event["ns"] for event in events if event["kind"] == "sched.committed")
    if _near(answer, (committed_ns - received_ns) / 1e9):
        return "that is when the scheduler took over the first token; its text reaches the client's socket later"
    if _near(answer, (chunks_ns[-1] - received_ns) / 1e9):
        return "that is the last chunk of the stream; the first one with text is wanted"
    return f"{answer:g} s isn't it: print `chunks_ns`, and choose the moment of the first chunk that holds text"


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= NEAR_S


def _ttft_s(events: Sequence[JsonEvent]) -> float:
    """From `http.received` to the second chunk: the first one only says who speaks."""
    return (_chunks_ns(events)[1] - _received_ns(events)) / 1e9


def _received_ns(events: Sequence[JsonEvent]) -> int:
    return next(int(event["ns"]) for event in events if event["kind"] == "http.received")


def _chunks_ns(events: Sequence[JsonEvent]) -> list[int]:
    return [ns for event in events if event["kind"] == "http.streamed" for ns in event["sent_ns"]]


def _delayed(events: Sequence[JsonEvent]) -> list[JsonEvent]:
    """The same events, those after the request's arrival a second later."""
    received_ns = _received_ns(events)

    def moved(name: str, value: Any) -> Any:
        if name == "ns" or name.endswith("_ns"):
            if isinstance(value, list):
                return [moved(name, item) for item in value]
            return value + DELAY_NS if value is not None and value > received_ns else value
        return value

    return [{name: moved(name, value) for name, value in event.items()} for event in events]
