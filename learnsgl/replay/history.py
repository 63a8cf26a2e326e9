"""The history of a recording, read once from beginning to end: steps, work, messages and requests with their moments.

The figures draw it and the ledger divides it up; it is handed out beside a figure, so that tests and notebooks can look
at numbers rather than at pixels. What it is made of stands in `history_data.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from learnsgl.core import ReqKey
from learnsgl.errors import TraceError
from learnsgl.replay.history_data import (
    Block,
    DeviceStep,
    EngineFacts,
    History,
    Journey,
    Letter,
    Message,
    ReqHistory,
    Run,
    Visit,
    Work,
)
from learnsgl.trace import events
from learnsgl.trace.checks.base import Place, ints
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Entry, Trace

__all__ = [
    "Block", "DeviceStep", "EngineFacts", "History", "Journey", "Letter", "Message", "ReqHistory", "Run", "Visit",
    "Work", "read_history", "scan_history",
]  # fmt: skip


def read_history(trace: Trace) -> History:
    """Read a recording in which something ran.

    Raises:
        TraceError: no request ran in the trace.
    """
    data = scan_history(trace)
    if not data.steps:
        raise TraceError(f"{trace.path}: no request ran in this recording, so there is nothing to draw")
    return data


def scan_history(trace: Trace) -> History:
    """Read a recording, whatever is in it.

    Raises:
        TraceFormatError: a frame is broken.
    """
    schedulers = [name for name in trace.processes if trace.process(name).does("scheduler")]
    data = History(trace.processes, schedulers[0] if schedulers else "")
    handlers = _Reader(data).handlers()
    for entry in trace.events():
        data.last_ns[entry.process] = entry.event.ns
        handler = handlers.get(type(entry.event))
        if handler is not None:
            handler(entry, entry.event)
    starts = [visit.received_ns for visit in data.visits]
    starts = starts or [step.schedule_ns[0] for step in data.steps if step.schedule_ns is not None]
    ends = [step.sample_ns[1] for step in data.steps if step.sample_ns is not None]
    ends += [visit.answered_ns for visit in data.visits if visit.answered_ns is not None]
    ends += [step.schedule_ns[0] for step in data.steps if step.schedule_ns is not None]
    data.origin_ns, data.end_ns = min(starts, default=0), max(ends, default=0)
    came = {uid: journey.first for uid, journey in data.journeys.items()}
    data.journeys = dict(
        sorted(data.journeys.items(), key=lambda item: (came[item[0]] is None, came[item[0]], item[0]))
    )
    return data


class _Reader:
    """Feeds a `History` from events that come in the order of their moments."""

    def __init__(self, data: History) -> None:
        self.data = data
        self._steps: dict[int, DeviceStep] = {}
        self._visits: dict[int, Visit] = {}
        self._sent: dict[tuple[str, str, int], tuple[Letter, tuple[int, ...]]] = {}

    def handlers(self) -> dict[type[Event], Callable[[Entry, Any], None]]:
        """What takes an event of each kind that the history holds."""
        everywhere: dict[type[Event], Callable[[Entry, Any], None]] = {
            events.MsgSent: self._on_sent,
            events.MsgReceived: self._on_received,
            events.TokTokenized: self._on_tokenized,
            events.TokFailed: self._on_tok_failed,
            events.DetokDecoded: self._on_decoded,
            events.HttpReceived: self._on_http_received,
            events.HttpStreamed: self._on_streamed,
            events.HttpAnswered: self._on_answered,
            events.HttpDisconnected: self._on_disconnected,
            events.ReqEnded: self._on_ended,
            events.ProcessLost: self._on_lost,
        }
        of_scheduler: dict[type[Event], Callable[[Entry, Any], None]] = {
            events.EngineReady: self._on_engine_ready,
            events.ReqQueued: self._on_queued,
            events.ReqRefused: self._on_refused,
            events.ReqAborting: self._on_aborting,
            events.SchedAdmitted: self._on_admitted,
            events.SchedBlocked: self._on_blocked,
            events.SchedStep: self._on_step,
            events.BatchSubmitted: self._on_submitted,
            events.BatchMasked: self._on_masked,
            events.BatchCollected: self._on_collected,
            events.EngineForward: self._on_forward,
            events.SchedCommitted: self._on_committed,
            events.ReqFinished: self._on_finished,
            events.ReqReleased: self._on_released,
        }
        return everywhere | {kind: self._only_first(handler) for kind, handler in of_scheduler.items()}

    def _only_first(self, handler: Callable[[Entry, Any], None]) -> Callable[[Entry, Any], None]:
        """With several ranks, which decide alike, the first scheduler speaks for all."""

        def take(entry: Entry, event: Any) -> None:
            if entry.process == self.data.scheduler:
                handler(entry, event)

        return take

    # ------------------------------------------------------------ requests, wherever they are

    def _journey(self, uid: int) -> Journey:
        journey = self.data.journeys.get(uid)
        if journey is None:
            journey = self.data.journeys[uid] = Journey(uid)
        return journey

    def _req(self, uid: int, choice: int) -> ReqHistory:
        choices = self._journey(uid).choices
        req = choices.get(choice)
        if req is None:
            req = choices[choice] = ReqHistory(ReqKey(uid, choice))
        return req

    def _reqs(self, event: Any) -> Iterator[tuple[int, ReqHistory]]:
        choices = ints(event.choices, "i4").tolist()
        for place, (uid, choice) in enumerate(zip(_uids(event), choices, strict=True)):
            yield place, self._req(uid, choice)

    def _on_http_received(self, entry: Entry, event: events.HttpReceived) -> None:
        journey = self._journey(event.uid)
        journey.route, journey.is_stream, journey.received = event.route, event.stream, _place(entry)
        self._visits[event.uid] = Visit(event.uid, event.ns)
        self.data.visits.append(self._visits[event.uid])

    def _on_streamed(self, entry: Entry, event: events.HttpStreamed) -> None:
        sent_ns = ints(event.sent_ns, "i8").tolist()
        for place, req in self._reqs(event):
            req.chunks_ns.append(sent_ns[place])
            if req.key.uid in self._visits:  # else it came before the recording begins
                self._visits[req.key.uid].chunks_ns.append(sent_ns[place])

    def _on_answered(self, entry: Entry, event: events.HttpAnswered) -> None:
        self._journey(event.uid).answered = _place(entry)
        if event.uid in self._visits:
            self._visits[event.uid].answered_ns = event.ns

    def _on_disconnected(self, entry: Entry, event: events.HttpDisconnected) -> None:
        self._journey(event.uid).disconnected = _place(entry)

    def _on_ended(self, entry: Entry, event: events.ReqEnded) -> None:
        req = self._req(event.uid, event.choice)
        req.ended, req.reason, req.status, req.code = _place(entry), event.reason, event.status, event.code
        req.num_generated = event.completion_tokens

    def _on_lost(self, entry: Entry, event: events.ProcessLost) -> None:
        self.data.lost[event.name] = _place(entry)

    # ------------------------------------------------------------ messages and text

    def _on_sent(self, entry: Entry, event: events.MsgSent) -> None:
        letter, uids = Letter(event.kinds, event.channel, event.number, _place(entry)), _uids(event)
        self._sent[entry.process, event.channel, event.number] = letter, uids
        self.data.letters.append(letter)
        for uid in uids:
            self._journey(uid).letters.append(letter)

    def _on_received(self, entry: Entry, event: events.MsgReceived) -> None:
        found = self._sent.pop((event.sender, event.channel, event.number), None)
        if found is None:  # it was sent before the recording begins
            return
        letter, uids = found
        letter.received = _place(entry)
        self.data.messages.append(Message(letter.kinds, event.sender, entry.process, letter.sent.ns, event.ns, uids))

    def _on_tokenized(self, entry: Entry, event: events.TokTokenized) -> None:
        journey = self._journey(event.uid)
        journey.tokenize_ns, journey.tokenized = (event.start_ns, event.ns), _place(entry)
        self._work(entry, "tokenize", event.start_ns, (event.uid,))

    def _on_tok_failed(self, entry: Entry, event: events.TokFailed) -> None:
        self._journey(event.uid).tokenized = _place(entry)

    def _on_decoded(self, entry: Entry, event: events.DetokDecoded) -> None:
        self._work(entry, "detokenize", event.start_ns, _uids(event))
        step = self._steps.get(event.step)
        if step is not None:
            step.text_ns, step.places["text"] = (event.start_ns, event.ns), _place(entry)

    # ------------------------------------------------------------ the scheduler's queue

    def _on_engine_ready(self, entry: Entry, event: events.EngineReady) -> None:
        self.data.engine = EngineFacts(event.num_pages, event.page_size, event.num_rows)

    def _on_queued(self, entry: Entry, event: events.ReqQueued) -> None:
        req = self._req(event.uid, event.choice)
        req.queued, req.order = _place(entry), event.order
        req.prompt_len, req.limit_len = event.prompt_len, event.limit_len

    def _on_refused(self, entry: Entry, event: events.ReqRefused) -> None:
        req = self._req(event.uid, event.choice)
        req.refused, req.code, req.prompt_len = _place(entry), event.code, event.prompt_len

    def _on_aborting(self, entry: Entry, event: events.ReqAborting) -> None:
        journey = self._journey(event.uid)
        for choice, req in journey.choices.items():
            if event.choice in (None, choice):
                req.aborts.append((_place(entry), event.reason))

    def _on_admitted(self, entry: Entry, event: events.SchedAdmitted) -> None:
        columns = (ints(event.rows, "i4"), ints(event.cached_lens, "i4"), ints(event.nodes, "i8"))
        rows, cached_lens, nodes = (column.tolist() for column in columns)
        promised = ints(event.promised, "i4").tolist()
        for place, req in self._reqs(event):
            req.admitted, req.admitted_step = _place(entry), event.step
            req.row, req.cached_len, req.node = rows[place], cached_lens[place], nodes[place]
            req.promised = promised[place]
            self.data.cached_tokens[req.key.uid] = req.cached_len

    def _on_blocked(self, entry: Entry, event: events.SchedBlocked) -> None:
        self._req(event.uid, event.choice).blocks.append(
            Block(
                _place(entry), event.step, event.reason, event.num_behind, event.needed, event.free, event.evictable,
                event.promised, event.other_uid,
            )
        )  # fmt: skip

    def _on_finished(self, entry: Entry, event: events.ReqFinished) -> None:
        num_tokens = ints(event.num_tokens, "i4").tolist()
        for place, req in self._reqs(event):
            req.finished, req.reason = _place(entry), req.reason or event.reasons[place]
            if req.ended is None:
                req.num_generated = num_tokens[place]

    def _on_released(self, entry: Entry, event: events.ReqReleased) -> None:
        for _, req in self._reqs(event):
            req.released = _place(entry)

    # ------------------------------------------------------------ steps

    def _on_step(self, entry: Entry, event: events.SchedStep) -> None:
        uids, lens = _uids(event), ints(event.lens, "i4").tolist()
        runs = tuple(
            Run(uid, length, place < event.num_prefill)
            for place, (uid, length) in enumerate(zip(uids, lens, strict=True))
        )
        step = DeviceStep(
            event.step, runs, choices=tuple(ints(event.choices, "i4").tolist()),
            starts=tuple(ints(event.starts, "i4").tolist()), schedule_ns=(event.start_ns, event.ns),
            num_waiting=event.num_waiting, num_free_pages=event.num_free_pages, places={"schedule": _place(entry)},
        )  # fmt: skip
        self._steps[event.step] = step
        self.data.steps.append(step)
        for _, req in self._reqs(event):
            req.steps.append(event.step)
        self._work(entry, "schedule", event.start_ns, uids)

    def _on_submitted(self, entry: Entry, event: events.BatchSubmitted) -> None:
        self._work(entry, "submit", event.start_ns, ())
        if event.step in self._steps:
            step = self._steps[event.step]
            step.submit_ns, step.places["submit"] = (event.start_ns, event.ns), _place(entry)

    def _on_masked(self, entry: Entry, event: events.BatchMasked) -> None:
        self._work(entry, "masks", event.start_ns, ())
        if event.step in self._steps:
            step = self._steps[event.step]
            step.masks_ns, step.places["masks"] = (event.start_ns, event.ns), _place(entry)

    def _on_collected(self, entry: Entry, event: events.BatchCollected) -> None:
        self._work(entry, "wait", event.start_ns, ())
        if event.step in self._steps:
            step = self._steps[event.step]
            step.wait_ns, step.places["wait"] = (event.start_ns, event.ns), _place(entry)

    def _on_forward(self, entry: Entry, event: events.EngineForward) -> None:
        if event.step in self._steps:
            step = self._steps[event.step]
            step.forward_ns = event.forward_start_ns, event.forward_end_ns
            step.sample_ns = event.sample_start_ns, event.sample_end_ns
            step.places["forward"] = _place(entry)

    def _on_committed(self, entry: Entry, event: events.SchedCommitted) -> None:
        self._work(entry, "commit", event.start_ns, _uids(event))
        for place, req in self._reqs(event):
            if event.kept[place]:
                req.tokens.append(event.step)
        if event.step in self._steps:
            step = self._steps[event.step]
            step.commit_ns, step.places["commit"] = (event.start_ns, event.ns), _place(entry)
            step.kept = tuple(map(bool, event.kept))

    def _work(self, entry: Entry, kind: str, start_ns: int, uids: tuple[int, ...]) -> None:
        self.data.work.append(Work(entry.process, kind, start_ns, entry.event.ns, uids))


def _place(entry: Entry) -> Place:
    return Place(entry.event.ns, entry.process, entry.number, entry.kind)


def _uids(event: Any) -> tuple[int, ...]:
    return tuple(ints(event.uids, "i8").tolist())
