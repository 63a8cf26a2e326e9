"""What lesson 1.4, "A request's life", gives its readers and asks of them. Its notebook calls what is in here.

`trail_of` collects the moments of one request from events as `learnsgl trace cat` prints them; `check_split_ttft`
compares the reader's small ledger with that of `learnsgl.replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from learnsgl.errors import TraceError
from learnsgl.lessons.checks import NotAttempted, NotYet, attempt, check, is_blank
from learnsgl.replay.ledger import Cause, Ledgers
from learnsgl.replay.ledger_causes import Area
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import to_json

JsonEvent = dict[str, Any]
Split = dict[str, int]

PARTS = ("queue", "messages", "others", "prefill")
"""What the exercise splits a time to first token into; the rest is left over."""
_CAUSES: Mapping[str, frozenset[Cause]] = {
    "queue": frozenset(cause for cause in Cause if cause.area is Area.QUEUE),
    "messages": frozenset(
        {Cause.TOKENIZER_MESSAGE, Cause.TOKENIZER_WAIT, Cause.SCHEDULER_MESSAGE, Cause.SCHEDULER_BUSY}
    ),
    "others": frozenset({Cause.OTHERS_PREFILL, Cause.OTHERS_DECODE}),
    "prefill": frozenset({Cause.PREFILL, Cause.PREFILL_SHARED}),
}
_NEAR_NS = 1000
_UNITS = (1e3, 1e6, 1e9)


class RanStep(NamedTuple):
    """A step that the device ran.

    Attributes:
        number: the step's number.
        start_ns, forward_end_ns, end_ns: its forward pass begins, its forward pass ends, its sampling ends.
        is_mine: whether the request of the trail was in it.
    """

    number: int
    start_ns: int
    forward_end_ns: int
    end_ns: int
    is_mine: bool


@dataclass(frozen=True)
class Trail:
    """The moments of a request up to its first token, in nanoseconds, in the order in which they come.

    Attributes:
        uid: the request.
        received_ns: the API server has read it.
        tokenize_sent_ns: the API server sends its `TokenizeMsg`.
        tokenize_start_ns: the tokenizer begins with it.
        user_sent_ns: the tokenizer sends its `UserMsg`.
        queued_ns: the scheduler has put it into the queue.
        scheduled_ns: the scheduler begins to put together the step that admits it.
        admitted_ns: it has a row and its pages.
        steps: what the device ran from then on, to the step that gave its first token; the first of them may have
            begun before the request was admitted.
        first_text_ns: the chunk with its first text is handed to the client's socket.
    """

    uid: int
    received_ns: int
    tokenize_sent_ns: int
    tokenize_start_ns: int
    user_sent_ns: int
    queued_ns: int
    scheduled_ns: int
    admitted_ns: int
    steps: tuple[RanStep, ...]
    first_text_ns: int


def trail_of(events: Iterable[JsonEvent], uid: int) -> Trail:
    """Collect the moments of a request.

    Args:
        events: of the whole recording, of level full, as dicts.
        uid: the request.

    Raises:
        TraceError: the events don't hold the whole way of this request to its first token.
    """
    events = list(events)
    about: dict[str, list[JsonEvent]] = {}
    for event in events:
        if event.get("uid") == uid or uid in event.get("uids", ()):
            about.setdefault(event["kind"], []).append(event)
    try:
        sent = {_kind(word): one["ns"] for one in reversed(about["msg.sent"]) for word in one["kinds"].split(", ")}
        admitted, steps = about["sched.admitted"][0], {event["step"]: event for event in about["sched.step"]}
        first = next(one["step"] for one in about["sched.committed"] if one["kept"][one["uids"].index(uid)])
        text_ns = about["detok.decoded"][0]["ns"]
        tokenized, queued, received = (about[kind][0] for kind in ("tok.tokenized", "req.queued", "http.received"))
        return Trail(
            uid, received["ns"], sent["TokenizeMsg"], tokenized["start_ns"], sent["UserMsg"], queued["ns"],
            steps[admitted["step"]]["start_ns"], admitted["ns"], _ran(events, steps, admitted["ns"], first),
            min(ns for ns in _chunks_ns(about["http.streamed"], uid) if ns >= text_ns),
        )  # fmt: skip
    except (KeyError, StopIteration, ValueError):
        raise TraceError(
            f"these events don't hold request {uid}'s way to its first token, from http.received to http.streamed; "
            "give a streamed request that got one, and a recording of level full"
        ) from None


def _ran(events: Iterable[JsonEvent], mine: Mapping[int, JsonEvent], after_ns: int, last: int) -> tuple[RanStep, ...]:
    """The steps that ended after a moment, up to the number `last`."""
    ran = [event for event in events if event["kind"] == "engine.forward"]
    return tuple(
        RanStep(one["step"], one["forward_start_ns"], one["forward_end_ns"], one["sample_end_ns"], one["step"] in mine)
        for one in ran
        if one["step"] <= last and one["sample_end_ns"] > after_ns
    )


def _kind(word: str) -> str:
    """The kind of message in a word such as `UserMsg` or `UserMsg*3`."""
    return word.partition("*")[0]


def _chunks_ns(streamed: Iterable[JsonEvent], uid: int) -> list[int]:
    """When the chunks of a request were handed to its client's socket."""
    return [ns for event in streamed for its, ns in zip(event["uids"], event["sent_ns"], strict=True) if its == uid]


@check
def check_split_ttft(function: Callable[[Trail], Split], recordings: Sequence[Trace]) -> str:
    """Whether a function splits a request's time to first token as the ledger does, for each request of recordings.

    The function takes a `Trail` and returns nanoseconds by the names in `PARTS`. A function in which only `queue` is
    there, as in the notebook's stub, is not attempted.
    """
    num_requests = 0
    for trace in recordings:
        events = [to_json(entry) for entry in trace.events()]
        for one in Ledgers(trace).all():
            totals = {
                part: sum(span.duration_ns for span in one.ttft if span.cause in causes)
                for part, causes in _CAUSES.items()
            }
            trail = trail_of(events, one.uid)
            where = f"request {one.uid} of {trace.path.name.partition('.')[0]}"
            _compare(_answer(attempt(function, trail)), totals, trail, where)
            num_requests += 1
    return f"the same nanoseconds as the ledger's, for all {num_requests} requests of {len(recordings)} recordings"


def _answer(answer: Any) -> dict[str, Any]:
    """The reader's parts, once all of them are numbers."""
    if not isinstance(answer, Mapping):
        raise NotYet(f"a dict with the keys {', '.join(PARTS)} is expected, and your function gave {answer!r:.80}")
    if missing := [part for part in PARTS if part not in answer]:
        raise NotYet(f"the dict has no key {missing[0]!r}; it needs {', '.join(PARTS)}")
    blank = [part for part in PARTS if is_blank(answer[part])]
    if set(blank) >= set(PARTS[1:]):
        raise NotAttempted
    for part in PARTS:
        if part not in blank and not isinstance(answer[part], int | float):
            raise NotYet(f"{part} is to be a number of nanoseconds, and is {answer[part]!r:.80}")
    return dict(answer)


def _compare(answer: Mapping[str, Any], truth: Split, trail: Trail, where: str) -> None:
    """Hold each part that is there to the ledger's, in the order of `PARTS`; dots come last."""
    for part in PARTS:
        if is_blank(answer[part]) or _near(answer[part], truth[part]):
            continue
        raise NotYet(f"{part}, {where}: {_hint(part, answer[part], truth[part], trail)}")
    if blank := [part for part in PARTS if is_blank(answer[part])]:
        done = [part for part in PARTS if part not in blank]
        raise NotYet(f"as the ledger has it so far: {', '.join(done)}; still dots: {', '.join(blank)}")


def _hint(part: str, answer: float, truth: int, trail: Trail) -> str:
    """What is wrong with a part, as far as its value tells."""
    if answer < 0:
        return "time runs forward: subtract the earlier moment from the later one"
    if truth > _NEAR_NS and any(_near(answer * unit, truth) for unit in _UNITS):
        return "the right spans, in another unit: nanoseconds are asked for"
    for wrong, hint in _mistakes(part, trail):
        if wrong != truth and _near(answer, wrong):
            return hint
    return f"that is too {'much' if answer > truth else 'little'}: print the trail, and look which moments you take"


def _mistakes(part: str, trail: Trail) -> list[tuple[int, str]]:
    """What comes out of likely mistakes, and the hint for each."""
    first, second = trail.tokenize_start_ns - trail.tokenize_sent_ns, trail.queued_ns - trail.user_sent_ns
    mine, others = ([step for step in trail.steps if step.is_mine is whose] for whose in (True, False))
    whole = sum(step.end_ns - step.start_ns for step in others)
    table = {
        "messages": [
            (first, "that is the way to the tokenizer alone; a second message follows"),
            (second, "that is the way to the scheduler alone; another message came before it"),
            (trail.queued_ns - trail.tokenize_sent_ns, "that counts what the tokenizer does between two messages too"),
        ],
        "others": [
            (whole, "a step that had begun earlier counts only from the moment at which the request was admitted"),
            (
                sum(step.forward_end_ns - max(step.start_ns, trail.admitted_ns) for step in others),
                "the others' sampling keeps the device busy too: a step of theirs ends at its end_ns",
            ),
            (sum(step.end_ns - step.start_ns for step in mine), "these are the steps with the request in them"),
        ],
        "prefill": [
            (sum(step.end_ns - step.start_ns for step in mine), "sampling is a cause of its own: stop before it"),
            (sum(step.forward_end_ns - step.start_ns for step in trail.steps), "not every step has the request in it"),
            (mine[0].forward_end_ns - mine[0].start_ns, "a long prompt takes several steps: all of them count"),
            (mine[-1].forward_end_ns - mine[-1].start_ns, "a long prompt takes several steps: all of them count"),
        ],
    }
    return table.get(part, [])


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= _NEAR_NS
