"""What passes between the processes for one request, or in a window of time, as lines of a sequence diagram.

`message_sequence.py` draws them. The client and the device are lifelines too: neither records anything itself, but the
API server and the scheduler tell what passed between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from learnsgl.errors import TraceError
from learnsgl.replay.history import scan_history
from learnsgl.replay.history_data import History, Journey, Letter, ReqHistory
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import missing_notes
from learnsgl.viz.spans import Span
from learnsgl.viz.words import count

CLIENT = "client"
DEVICE = "device"


class LineKind(Enum):
    """What a line of the diagram is."""

    MESSAGE = "an arrow from one lifeline to another"
    LOST = "an arrow whose arrival the recording lacks: it was lost, or its receiver died before it wrote that down"
    WORK = "a box on one lifeline"
    DEATH = "the end of a lifeline: the process died"


class Line(NamedTuple):
    """One line.

    Attributes:
        kind: what it is.
        start_ns, end_ns: when it was sent and when it arrived, or from when until when the work was done.
        source, target: lifelines; for work they are the same.
        text: what stands at it.
        uids: requests that it is about.
    """

    kind: LineKind
    start_ns: int
    end_ns: int
    source: str
    target: str
    text: str
    uids: tuple[int, ...]


@dataclass(frozen=True)
class MessageSequence:
    """The lines of a diagram.

    Attributes:
        uid: the request that it is about; `None` for all that happened in a window.
        origin_ns: moments count from here.
        lifelines: names, from the left to the right.
        lines: in the order of their moments.
        notes: what the recording doesn't hold.
    """

    uid: int | None
    origin_ns: int
    lifelines: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def read_message_sequence(trace: Trace, *, uid: int | None = None, window_ns: Span | None = None) -> MessageSequence:
    """Read what passes between the processes.

    Args:
        trace: the recording.
        uid: for this request; by default for the first one, or with a window for all.
        window_ns: only what begins between these moments, on `time.monotonic_ns`.

    Raises:
        TraceError: the recording has no such request, or nothing in that window.
    """
    history = scan_history(trace)
    if uid is None and window_ns is None:
        uid = next(iter(history.journeys), None)
    if uid not in history.journeys and (uid is not None or window_ns is None):
        known = ", ".join(map(str, list(history.journeys)[:20])) or "none"
        wanted = "no request" if uid is None else f"no request {uid}"
        raise TraceError(f"{trace.path}: {wanted} came in this recording; requests in it: {known}")
    found = [
        line for line in _lines(history, uid) if window_ns is None or window_ns[0] <= line.start_ns <= window_ns[1]
    ]
    found.sort(key=lambda line: (line.start_ns, line.end_ns))
    if not found:
        raise TraceError(f"{trace.path}: nothing was sent or done between the moments {window_ns}")
    names = {name for line in found for name in (line.source, line.target)}
    order = [CLIENT, *history.processes]
    if history.scheduler in order:
        order.insert(order.index(history.scheduler) + 1, DEVICE)
    lifelines = [name for name in order if name in names]
    lifelines += sorted(names.difference(order))
    notes = []
    if not history.letters and len(history.processes) > 1:
        notes.append(f"Level {trace.level} records no messages between the processes.")
    notes += missing_notes(trace)
    origin_ns = found[0].start_ns if window_ns is None else window_ns[0]
    return MessageSequence(uid, origin_ns, tuple(lifelines), tuple(found), tuple(notes))


def _lines(history: History, uid: int | None) -> Iterator[Line]:
    journeys = history.journeys.values() if uid is None else [history.journeys[uid]]
    letters: dict[tuple[str, str, int], tuple[Letter, list[int]]] = {}
    steps: set[int] = set()
    for journey in journeys:
        for letter in journey.letters:
            key = letter.sent.process, letter.channel, letter.number
            letters.setdefault(key, (letter, []))[1].append(journey.uid)
        yield from _door(journey)
        for req in journey.choices.values():
            steps.update(req.steps)
            yield from _waiting(history, req)
    for name, place in history.lost.items():
        yield Line(LineKind.DEATH, place.ns, place.ns, name, name, "dies", ())
    for letter, about in letters.values():
        yield _message(history, letter, tuple(dict.fromkeys(about)))
    for step in history.steps:
        if step.number in steps and step.forward_ns and step.sample_ns:
            mine = [run for run in step.runs if uid in (None, run.uid)]
            chunk = sum(run.num_tokens for run in mine if run.is_prefill)
            what = f"prefill of {count(chunk, 'token')}" if chunk else "decode"
            text = f"step {step.number:,}: {what}"
            uids = tuple(run.uid for run in mine)
            yield Line(LineKind.WORK, step.forward_ns[0], step.sample_ns[1], DEVICE, DEVICE, text, uids)


def _door(journey: Journey) -> Iterator[Line]:
    """What passes between the client and the API server, and the tokenizing."""
    uids = (journey.uid,)
    if journey.received is not None:
        ns, api = journey.received.ns, journey.received.process
        yield Line(LineKind.MESSAGE, ns, ns, CLIENT, api, _route(journey.route), uids)
    if journey.tokenize_ns is not None and journey.tokenized is not None:
        tokenizer = journey.tokenized.process
        lens = [req.prompt_len for req in journey.choices.values() if req.prompt_len is not None]
        text = f"{count(lens[0], 'token')}" if lens else "tokenize"
        yield Line(LineKind.WORK, *journey.tokenize_ns, tokenizer, tokenizer, text, uids)
    api = next((place.process for place in (journey.received, journey.answered) if place is not None), "api")
    for req in journey.choices.values():
        for place, ns in enumerate(req.chunks_ns, start=1):
            yield Line(LineKind.MESSAGE, ns, ns, api, CLIENT, f"chunk {place}", uids)
    if journey.answered is not None:
        yield Line(LineKind.MESSAGE, journey.answered.ns, journey.answered.ns, api, CLIENT, "end of the answer", uids)
    if journey.disconnected is not None:
        ns = journey.disconnected.ns
        yield Line(LineKind.MESSAGE, ns, ns, CLIENT, api, "the client is gone", uids)


def _route(route: str | None) -> str:
    """The end of a route: `HTTP chat/completions`."""
    return "HTTP request" if route is None else f"HTTP {route.removeprefix('/v1/')}"


def _waiting(history: History, req: ReqHistory) -> Iterator[Line]:
    """The time in the queue, where it is longer than it takes to look at it once."""
    if req.queued is None or req.admitted is None or not req.blocks:
        return
    reasons = ", ".join(dict.fromkeys(block.reason for block in req.blocks))
    name = history.scheduler
    yield Line(LineKind.WORK, req.queued.ns, req.admitted.ns, name, name, f"waits: {reasons}", (req.key.uid,))


def _message(history: History, letter: Letter, uids: tuple[int, ...]) -> Line:
    sender = letter.sent.process
    if letter.received is not None:
        target, end_ns, kind = letter.received.process, letter.received.ns, LineKind.MESSAGE
    else:
        named = [name for name in history.processes if name.partition("-")[0] == letter.channel.partition("-")[0]]
        target = letter.channel if letter.channel in history.processes or not named else named[0]
        end_ns, kind = letter.sent.ns, LineKind.LOST
    others = len(uids) - 1
    text = letter.kinds if not others else f"{letter.kinds} ({len(uids)} requests)"
    return Line(kind, letter.sent.ns, end_ns, sender, target, text, uids)
