"""A trace told as tracks: what each process and its device did, each request's eight stages, messages and counters.

`perfetto.py` and `chrome.py` write down what `tell` gives. It reads the events once and keeps only what is open: the
requests, steps and messages of the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from learnsgl.config import TraceLevel
from learnsgl.export.counters import COUNTERS, CounterKind, SchedulerCounters
from learnsgl.export.layout import Lanes, Layout, args_of, listed
from learnsgl.export.lives import LifeStream
from learnsgl.export.messages import Message, MessagePairs
from learnsgl.export.recording import Progress, read_through
from learnsgl.export.steps import StepStream
from learnsgl.export.tracks import Args, Instant, Item, Sample, Slice, Track, TrackKind
from learnsgl.trace import events
from learnsgl.trace.events import Event
from learnsgl.trace.life import RequestLife
from learnsgl.trace.lives import RequestRecord
from learnsgl.trace.reader import Entry, Trace, kind_of

MESSAGE_NS = 1000
"""A message changes hands at a moment. Its slice ends there and begins so much earlier, for an arrow to hold it."""

_WORK: dict[type[Event], str] = {
    events.ProcessPhase: "", events.TokTokenized: "tokenize", events.DetokDecoded: "detokenize",
    events.SchedStep: "schedule", events.BatchSubmitted: "submit", events.BatchCollected: "wait",
    events.SchedCommitted: "commit",
}  # fmt: skip
"""Events that took time in the main thread, from their `start_ns` on; a phase of the start-up has a name of its own."""
_INSTANTS = (
    events.ProcessReady, events.ProcessServing, events.ProcessLost, events.ProcessFailed, events.ProcessStopping,
    events.ProcessExited, events.ProcessEnded, events.HttpReceived, events.HttpRefused, events.HttpCalled,
    events.HttpDisconnected, events.HttpAnswered, events.MsgRejected, events.TokFailed, events.DetokStopped,
    events.ReqRefused, events.ReqAborting, events.ReqFinished, events.ReqEnded, events.SchedAdmitted,
    events.SchedBlocked, events.CacheEvicted, events.EngineReady, events.TraceDropped,
)  # fmt: skip
_TEXTS = (events.TokText, events.DetokText)
_MESSAGES_RANK, _PREFILL_RANK, _DECODE_RANK, _COUNTERS_RANK = 100, 200, 300, 400


def tell(trace: Trace, *, with_text: bool = False, progress: Progress | None = None) -> Iterator[Item]:
    """Everything that a viewer of timelines shows of a trace.

    Args:
        trace: the recording; cut off, late or of level steps, it has fewer tracks.
        with_text: show prompts and answers too, where level `tokens` has recorded them.
        progress: told how many events were read.

    Yields:
        Groups and tracks, each before what lies on it. Slices come when they have ended, so not by their beginnings.

    Raises:
        TraceFormatError: a frame of the trace is broken.
        TraceViolation: an event's fields don't belong together.
    """
    teller = _Teller(trace, with_text)
    yield from teller.told()
    yield from read_through(trace, teller.take, progress)
    teller.finish()
    yield from teller.told()


class _Process:
    """The lanes and counters of one process."""

    def __init__(self, layout: Layout, trace: Trace, name: str) -> None:
        self._layout = layout
        self._name = name
        self._counters: dict[CounterKind, Track] = {}
        self.work = layout.lanes(name, name, TrackKind.THREAD, 0)
        self.messages = layout.lanes(name, "messages", TrackKind.LANE, _MESSAGES_RANK)
        self.prefill = layout.lanes(name, "device: steps with prompt chunks", TrackKind.LANE, _PREFILL_RANK)
        self.decode = layout.lanes(name, "device: decode steps", TrackKind.LANE, _DECODE_RANK)
        self.counters: SchedulerCounters | None = None
        if trace.process(name).does("scheduler"):
            has_cache = trace.level != TraceLevel.STEPS
            self.counters = SchedulerCounters(from_start=not trace.begins_late(name), has_cache=has_cache)

    def counter(self, kind: CounterKind) -> Track:
        """The track of a counter."""
        if kind not in self._counters:
            rank = _COUNTERS_RANK + COUNTERS.index(kind)
            self._counters[kind] = self._layout.counter(self._name, kind.name, kind.unit, rank)
        return self._counters[kind]


class _Teller:
    """Turns events into items, and gathers those until they are told."""

    def __init__(self, trace: Trace, with_text: bool) -> None:
        self._layout = Layout(trace)
        self._processes = {name: _Process(self._layout, trace, name) for name in trace.processes}
        self._lives = LifeStream(trace)
        self._steps = StepStream()
        self._pairs = MessagePairs()
        self._ends: dict[tuple[str, str, int], tuple[Track, int]] = {}
        """Messages that are under way: track and beginning of their slice at the sender."""
        self._num_flows = 0
        self._items: list[Item] = []
        self._handlers: dict[type[Event], Callable[[Entry, Any], None]] = {
            **dict.fromkeys(_WORK, self._on_work),
            **dict.fromkeys((*_INSTANTS, *_TEXTS) if with_text else _INSTANTS, self._on_instant),
            events.MsgSent: self._on_sent,
            events.MsgReceived: self._on_received,
            events.EngineForward: self._on_forward,
        }

    def told(self) -> list[Item]:
        """What was gathered since the last time; new tracks first."""
        items, self._items = self._items, []
        return [*self._layout.untold(), *items]

    def take(self, entry: Entry) -> list[Item]:
        """Take one event over; returns what can be told with it."""
        self._steps.take(entry)
        handler = self._handlers.get(type(entry.event))
        if handler is not None:
            handler(entry, entry.event)
        counters = self._processes[entry.process].counters
        if counters is not None:
            for kind, value in counters.take(entry.event):
                track = self._processes[entry.process].counter(kind)
                self._items.append(Sample(track, entry.event.ns, value))
        for record in self._lives.take(entry):
            self._tell_request(record)
        return self.told()

    def finish(self) -> None:
        """The trace has ended: tell what is still open."""
        for message in self._pairs.rest():
            self._tell_sent(message, None)
        for record in self._lives.rest():
            self._tell_request(record)

    # ------------------------------------------------------------ processes

    def _on_work(self, entry: Entry, event: Any) -> None:
        name = _WORK[type(event)] or event.phase
        start_ns, end_ns = min(event.start_ns, event.ns), event.ns
        track = self._processes[entry.process].work.place(start_ns, end_ns)
        self._items.append(Slice(track, name, start_ns, end_ns, kind_of(event).partition(".")[0], args_of(event)))

    def _on_instant(self, entry: Entry, event: Event) -> None:
        name = kind_of(event)
        track = self._processes[entry.process].work.first
        self._items.append(Instant(track, name, event.ns, name.partition(".")[0], args_of(event)))

    def _on_forward(self, entry: Entry, event: events.EngineForward) -> None:
        step = self._steps.find(entry.process, event.step)
        lanes = self._processes[entry.process]
        args: Args = {"step": event.step}
        if step is not None:
            args |= {
                "num_requests": len(step.uids), "num_prefill": step.num_prefill, "num_tokens": step.num_tokens,
                "num_prefill_tokens": step.num_prefill_tokens, "uids": listed(step.uids.tolist()),
            }  # fmt: skip
        moments = [event.forward_start_ns]
        for ns in (event.forward_end_ns, event.sample_start_ns, event.sample_end_ns):
            moments.append(max(ns, moments[-1]))
        lane = lanes.prefill if step is not None and step.num_prefill else lanes.decode
        track = lane.place(moments[0], moments[-1])
        children = (
            Slice(track, "forward", moments[0], moments[1], "engine", {}),
            Slice(track, "sample", moments[2], moments[3], "engine", {}),
        )
        name = f"{step.kind} step" if step is not None else "step"
        self._items.append(Slice(track, name, moments[0], moments[-1], "engine", args, children))

    # ------------------------------------------------------------ messages

    def _on_sent(self, entry: Entry, event: events.MsgSent) -> None:
        message = self._pairs.sent(entry, event)
        self._ends[message[:3]] = self._reserve(entry.process, event.ns, event.ns - MESSAGE_NS)

    def _on_received(self, entry: Entry, event: events.MsgReceived) -> None:
        message = self._pairs.received(entry, event)
        flow = None
        if message[:3] in self._ends:
            self._num_flows += 1
            flow = self._num_flows
            self._tell_sent(message, flow)
        earliest_ns = max(event.ns - MESSAGE_NS, min(event.sent_ns, event.ns))
        track, start_ns = self._reserve(entry.process, event.ns, earliest_ns)
        args = {**_args_of_message(message), "transit_us": (event.ns - event.sent_ns) / 1e3}
        self._items.append(Slice(track, f"receive {message.name}", start_ns, event.ns, "msg", args, flow_in=flow))

    def _tell_sent(self, message: Message, flow: int | None) -> None:
        track, start_ns = self._ends.pop(message[:3])
        args = _args_of_message(message)
        name = f"send {message.name}"
        self._items.append(Slice(track, name, start_ns, message.sent_ns, "msg", args, flow_out=flow))

    def _reserve(self, process: str, ns: int, earliest_ns: int) -> tuple[Track, int]:
        """Track and beginning of a slice that ends at a moment, and doesn't begin before the last one has ended."""
        lanes: Lanes = self._processes[process].messages
        start_ns = min(max(earliest_ns, lanes.end_ns), ns)
        return lanes.place(start_ns, ns), start_ns

    # ------------------------------------------------------------ requests

    def _tell_request(self, record: RequestRecord) -> None:
        for life in record.sorted_lives():
            moments = [ns for ns in (*life.moments, life.answered_ns, life.released_ns) if ns is not None]
            if not moments:
                continue
            name = f"request {record.uid}" + (f".{life.key.choice}" if len(record.lives) > 1 else "")
            track = self._layout.request(name)
            children: list[Slice] = []
            cursor_ns = min(moments)
            for stage in life.stages:
                if stage is not None:
                    start_ns = max(stage.start_ns, cursor_ns)
                    cursor_ns = max(stage.end_ns, start_ns)
                    children.append(Slice(track, stage.name, start_ns, cursor_ns, "stage", {}))
            end_ns = max(*moments, cursor_ns)
            args = _args_of_life(record, life)
            self._items.append(Slice(track, name, min(moments), end_ns, "request", args, tuple(children)))


def _args_of_message(message: Message) -> Args:
    return {
        "sender": message.sender, "channel": message.channel, "number": message.number,
        "num_bytes": message.num_bytes, "uids": listed(list(message.uids)),
    }  # fmt: skip


def _args_of_life(record: RequestRecord, life: RequestLife) -> Args:
    known = {
        "uid": record.uid, "choice": life.key.choice, "route": record.route, "streamed": life.streamed,
        "reason": life.reason, "status": life.status, "code": record.codes.get(life.key.choice),
        "prompt_tokens": life.prompt_tokens, "cached_tokens": life.cached_tokens,
        "generated_tokens": life.generated_tokens, "ttft_ms": None if life.ttft_s is None else life.ttft_s * 1e3,
        "tpot_ms": None if life.tpot_s is None else life.tpot_s * 1e3,
    }  # fmt: skip
    return {name: value for name, value in known.items() if value is not None}
