"""The latency ledger: a request's time to first token and each later gap, divided among causes that add up exactly.

`learnsgl trace ledger`, the figures and the lessons call `ledger`; whoever wants many requests of one recording makes
`Ledgers` once. All is integer nanoseconds: the parts of an interval follow each other without gaps, so their sum is
the interval. What no event explains is a part of its own.

For each token the way is walked back from the moment at which it left: the API server, messages, detokenizer, commit,
sampling, forward pass, and what the device did before that; and it is cut where the token before it had left. So
time that overlap hides behind the device is nobody's cause.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from learnsgl.core import ReqKey
from learnsgl.errors import OptionError
from learnsgl.replay.history import History, Journey, ReqHistory, scan_history
from learnsgl.replay.ledger_causes import Area, Cause
from learnsgl.replay.ledger_device import Activity
from learnsgl.replay.ledger_life import Detail, Life, detail_of
from learnsgl.replay.ledger_spans import Part, fit
from learnsgl.trace.checks.base import Place
from learnsgl.trace.index import ALL_ROLES
from learnsgl.trace.reader import Trace

__all__ = ["Area", "Cause", "Ledger", "Ledgers", "Measure", "Part", "ledger"]

Parts = tuple[Part, ...]


class Measure(Enum):
    """At which moments a request's tokens count."""

    CHUNKS = "when the chunk that holds it was handed to the client's socket"
    COMMITS = "when the scheduler took it over"


@dataclass(frozen=True)
class Ledger:
    """Where a request's time went.

    Attributes:
        uid, choice: the request.
        measured: the moments between which gaps lie. Without a stream, and without its chunks in the recording, these
            are commits.
        start: the event from which it is measured; `None` where the recording begins in the middle of the request.
        ttft: from there to its first token; empty where there was none.
        gaps: from token to token. A chunk can hold several, and chunks without a new token are no boundary.
        end: from its last token (or from the start) to its ending.
        ending: stop, length, abort or error; `None` where the recording has none.
        num_tokens: tokens that were generated.
        gap_steps: for the first token and for each gap, the steps whose tokens arrived at its end.
    """

    uid: int
    choice: int
    measured: Measure
    start: Place | None
    ttft: Parts
    gaps: tuple[Parts, ...]
    end: Parts
    ending: str | None
    num_tokens: int
    gap_steps: tuple[tuple[int, ...], ...]

    @property
    def parts(self) -> Iterator[Part]:
        """All of its time, in order."""
        yield from self.ttft
        for gap in self.gaps:
            yield from gap
        yield from self.end

    @property
    def totals(self) -> dict[Cause, int]:
        """Nanoseconds by cause, of all its time; causes that don't occur are left out."""
        return totals_of(self.parts)

    @property
    def ttft_ns(self) -> int | None:
        """Time to first token."""
        return sum(part.duration_ns for part in self.ttft) if self.ttft else None

    @property
    def total_ns(self) -> int:
        """From its first moment to its last."""
        return sum(part.duration_ns for part in self.parts)

    @property
    def unexplained_share(self) -> float:
        """How much of its time no event explains, from 0 to 1."""
        total = self.total_ns
        return self.totals.get(Cause.UNEXPLAINED, 0) / total if total else 0.0

    def part_at(self, ns: int) -> Part | None:
        """The part in which a moment lies."""
        return next((part for part in self.parts if part.start_ns <= ns < part.end_ns), None)


def totals_of(parts: Iterable[Part]) -> dict[Cause, int]:
    """Nanoseconds by cause, in the order of the causes."""
    totals: Counter[Cause] = Counter()
    for part in parts:
        totals[part.cause] += part.duration_ns
    return {cause: totals[cause] for cause in Cause if cause in totals}


def ledger(trace: Trace | History, uid: int, choice: int = 0) -> Ledger:
    """Where the time of one request went.

    Args:
        trace: the recording, or its history.
        uid: the request's id.
        choice: which of its choices.

    Raises:
        OptionError: the recording has no such request; the message lists those that it has.
        TraceFormatError: the trace is broken.
    """
    return Ledgers(trace).of(uid, choice)


class Ledgers:
    """The ledgers of a recording, made when they are asked for.

    Attributes:
        history: the recording.
        activity: what the device and the processes did.

    Args:
        trace: the recording, or its history.
    """

    def __init__(self, trace: Trace | History) -> None:
        self.history = trace if isinstance(trace, History) else scan_history(trace)
        self.activity = Activity(self.history)
        self._detail = detail_of(self.activity)
        self._has_api = not {"api", ALL_ROLES}.isdisjoint(self.history.processes)

    @property
    def keys(self) -> list[tuple[int, int]]:
        """Every request with its choices, in the order in which they came."""
        return [
            (uid, choice) for uid, journey in self.history.journeys.items() for choice in sorted(journey.choices or [0])
        ]

    def all(self) -> Iterator[Ledger]:
        """The ledger of every request, in the order in which they came."""
        for uid, choice in self.keys:
            yield self.of(uid, choice)

    def find(self, uid: int, choice: int = 0) -> tuple[Journey, ReqHistory]:
        """A request in the history.

        Raises:
            OptionError: there is none; the message lists those that there are.
        """
        journey = self.history.journeys.get(uid)
        if journey is None:
            known = list(self.history.journeys)
            listed = f"there are: {uid_ranges(known)}" if known else "there is none at all"
            raise OptionError(f"request {uid} is not in this recording; {listed}")
        if not journey.choices and choice == 0:  # it never reached the scheduler
            return journey, ReqHistory(ReqKey(uid))
        if choice not in journey.choices:
            there = ", ".join(map(str, sorted(journey.choices)))
            raise OptionError(f"request {uid} has no choice {choice}; there are: {there or 0}")
        return journey, journey.choices[choice]

    def life(self, uid: int, choice: int = 0) -> Life:
        """The request's way through the server."""
        return Life(self.activity, *self.find(uid, choice), self._detail)

    def of(self, uid: int, choice: int = 0) -> Ledger:
        """The ledger of one request.

        Raises:
            OptionError: there is no such request.
        """
        life = self.life(uid, choice)
        journey, req = life.journey, life.req
        start, end_ns = self._start(journey, req), self._end_ns(journey, req)
        measured = self._measure(journey, req)
        tokens = self._tokens(life, measured)
        begin_ns = start.ns if start is not None else min(tokens, default=end_ns)
        way_in = self._way_in(life, begin_ns, end_ns)
        intervals = []
        cursor = begin_ns
        for moment, steps in tokens.items():
            moment = max(moment, cursor)
            step = self.activity.steps[steps[-1]]
            way_out = life.token_out(step, moment if measured is Measure.CHUNKS else None)
            intervals.append(_interval(way_in, way_out, cursor, moment))
            cursor = moment
        end = _interval(way_in, life.ending_out(end_ns), cursor, max(end_ns, cursor))
        has_first = start is not None and bool(intervals)
        ttft, gaps = (intervals[0], intervals[1:]) if has_first else ((), intervals[1:])
        return Ledger(
            uid, choice, measured, start, ttft, tuple(gaps), end, req.reason, len(req.kept_tokens),
            tuple(tokens.values()) if has_first else tuple(tokens.values())[1:],
        )  # fmt: skip

    # ------------------------------------------------------------ moments

    def _start(self, journey: Journey, req: ReqHistory) -> Place | None:
        """The arrival; where the recording has no API server, the moment at which the scheduler queued it."""
        if journey.received is not None:
            return journey.received
        return None if self._has_api else req.queued or req.refused

    def _end_ns(self, journey: Journey, req: ReqHistory) -> int:
        ends = [place for place in (journey.answered, req.ended) if place is not None]
        if ends:
            return max(place.ns for place in ends)
        last = req.finished or req.refused
        if last is not None and not self._has_api:
            return last.ns
        return max(self.history.last_ns.values(), default=0)

    def _measure(self, journey: Journey, req: ReqHistory) -> Measure:
        if req.chunks_ns:
            return Measure.CHUNKS
        is_client_known = journey.is_stream and self._detail is Detail.MESSAGES and req.ended is not None
        return Measure.CHUNKS if is_client_known else Measure.COMMITS

    def _tokens(self, life: Life, measured: Measure) -> dict[int, tuple[int, ...]]:
        """From the moments at which tokens count to the steps that gave them, in order."""
        moments: dict[int, tuple[int, ...]] = {}
        for number in life.req.kept_tokens:
            step = self.activity.steps.get(number)
            if step is None or step.commit_ns is None:
                continue
            moment = life.delivered_ns(step) if measured is Measure.CHUNKS else step.commit_ns[1]
            if moment is not None:
                moments[moment] = (*moments.get(moment, ()), number)
        return moments

    def _way_in(self, life: Life, start_ns: int, end_ns: int) -> Parts:
        """The way in; from the last word of a process that died, that is the cause."""
        lost = [self.history.last_ns.get(name, place.ns) for name, place in self.history.lost.items()]
        lost_ns = min(lost, default=end_ns)
        parts = [part for part in life.way_in(start_ns, min(end_ns, lost_ns)) if part.start_ns < lost_ns]
        if lost_ns < end_ns:
            parts.append(Part(Cause.PROCESS_LOST, lost_ns, end_ns))
        return fit(parts, start_ns, max(start_ns, end_ns))


def _interval(way_in: Parts, way_out: list[Part], start_ns: int, end_ns: int) -> Parts:
    """What lies between two deliveries: the way in up to where the way out begins, and the way out."""
    turn_ns = min(way_out[0].start_ns, end_ns) if way_out else end_ns
    first = bisect_right(way_in, start_ns, key=lambda part: part.end_ns)
    last = bisect_left(way_in, turn_ns, key=lambda part: part.start_ns)
    cut = [Part(part.cause, part.start_ns, min(part.end_ns, turn_ns)) for part in way_in[first:last]]
    return fit([*cut, *way_out], start_ns, end_ns)


def uid_ranges(uids: list[int]) -> str:
    """Ids in short: `1 to 5, 9`."""
    runs: list[list[int]] = []
    for uid in sorted(uids):
        if runs and uid == runs[-1][-1] + 1:
            runs[-1][1:] = [uid]
        else:
            runs.append([uid])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
