"""Replay: a recording as a place that one can move about in. Give it a moment, and it gives the server's state there.

`learnsgl trace show`, the figures and the notebooks use it. Opening reads the headers of frames and nothing else; a
moment costs the decoding of what lies around it, and the folding from the nearest keyframe or checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from learnsgl.config import TraceLevel
from learnsgl.errors import OptionError
from learnsgl.replay.activity import Around, is_about
from learnsgl.replay.messages import MessageIndex, MessageInFlight
from learnsgl.replay.scheduler_view import SchedulerView
from learnsgl.replay.seek import StateSeeker
from learnsgl.replay.server_state import Moment, ServerState
from learnsgl.replay.stream import FrameCache
from learnsgl.replay.timeline import Place, Timeline, step_position, step_range
from learnsgl.trace import events
from learnsgl.trace.reader import Entry, Trace, kind_of

ROUNDING_NS = 1000
"""A time in seconds may miss the last event's moment by this."""
START_EVENTS = 4096
"""Events of a scheduler among which `engine.ready` is looked for."""


class Replay:
    """The server at any moment of a recording.

    Between two events nothing that is recorded changes, so a moment is named by an event, the newest one, or by a
    time. The order of events is that of `Trace.events()`.

    Attributes:
        trace: the recording, as far as it was written when it was opened or last refreshed.
        schedulers: names of the processes that schedule; more than one with tensor parallelism.
    """

    def __init__(self, trace: Trace) -> None:
        self._cache = FrameCache()
        self._seekers: dict[str, StateSeeker] = {}
        self._page_sizes: dict[str, int | None] = {}
        self._messages: MessageIndex | None = None
        self._take_over(trace)

    @classmethod
    def open(cls, path: Path | str) -> Replay:
        """Open a recording: a run's folder, which may still be written to, a packed file, or a folder of runs.

        Raises:
            FolderError: nothing is there, or it can't be read.
            TraceFormatError: it isn't a trace, or a frame's header is broken.
            TraceError: not a single event was recorded in it.
        """
        return cls(Trace.open(path))

    def refresh(self) -> bool:
        """Take over what was recorded since; states that were given before stay as they are.

        Returns:
            Whether there is anything new.
        """
        before = self.trace.num_events
        self._take_over(Trace.open(self.trace.path))
        return self.trace.num_events != before

    def _take_over(self, trace: Trace) -> None:
        self._timeline = Timeline(trace, self._cache)
        self.trace = trace
        self.schedulers = tuple(name for name in trace.processes if trace.process(name).does("scheduler"))
        for name in self.schedulers:
            stream = self._timeline.streams[name]
            seeker = self._seekers.setdefault(name, StateSeeker(stream, only_steps=not self._has_pages))
            seeker.move_to(stream)

    # ------------------------------------------------------------ what there is

    @property
    def level(self) -> str | None:
        """How much was recorded: steps, full or tokens."""
        return self.trace.level

    @property
    def _has_pages(self) -> bool:
        return self.level != TraceLevel.STEPS

    @property
    def start_ns(self) -> int:
        """Moment of the first event."""
        return self._timeline.start_ns

    @property
    def end_ns(self) -> int:
        """Moment of the last event."""
        return self._timeline.end_ns

    @property
    def duration_s(self) -> float:
        """Seconds from the first event to the last."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def has_whole_end(self) -> bool:
        """Whether nothing more will come: every process has recorded its end, or the recording was stopped."""
        return self.trace.is_stopped or not any(self.trace.is_cut(name) for name in self.trace.processes)

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be added: every process has recorded its end, or the recording is packed."""
        return self.has_whole_end or not self.trace.path.is_dir()

    @property
    def steps(self) -> range:
        """Numbers of the first scheduler's steps in the recording; empty where there are none."""
        return step_range(self._timeline.streams[self.schedulers[0]]) if self.schedulers else range(0)

    @property
    def uids(self) -> tuple[int, ...]:
        """Ids of all requests, ascending. The first call reads the whole recording."""
        return tuple(sorted(self._index().uids))

    def _index(self) -> MessageIndex:
        if self._messages is None:
            self._messages = MessageIndex()
        self._messages.read(self.trace)
        return self._messages

    # ------------------------------------------------------------ moments

    def start(self) -> ServerState:
        """The state after the first event."""
        return self.at(ns=self.start_ns)

    def end(self) -> ServerState:
        """The state after the last event."""
        return self.at(ns=self.end_ns)

    def at(
        self, *, event: tuple[str, int] | None = None, time_s: float | None = None, ns: int | None = None,
        step: int | None = None,
    ) -> ServerState:  # fmt: skip
        """The server at a moment, named as for `locate`.

        Raises:
            OptionError: see `locate`.
            TraceViolation: the recording contradicts itself on the way there.
            TraceFormatError: a frame is broken.
        """
        return self.state(self.locate(event=event, time_s=time_s, ns=ns, step=step))

    def locate(
        self, *, event: tuple[str, int] | None = None, time_s: float | None = None, ns: int | None = None,
        step: int | None = None,
    ) -> Moment:  # fmt: skip
        """A moment of the recording, which is named in one of four ways; nothing is folded for it.

        Args:
            event: process and number: right after this event.
            time_s: seconds from the recording's first event.
            ns: on `time.monotonic_ns`.
            step: right after the first scheduler has submitted this step.

        Raises:
            OptionError: it is named in no way or in several, or lies outside the recording.
            TraceFormatError: a frame is broken.
        """
        if sum(given is not None for given in (event, time_s, ns, step)) != 1:
            raise OptionError("name the moment in one way: at(event=(process, number)), time_s=, ns= or step=")
        if step is not None:
            return self._moment_after(self._place_of_step(step))
        if event is not None:
            return self._moment_after(self._timeline.place_of(*event))
        if time_s is not None:
            ns = self._ns_of(time_s)
        if ns is None or not self.start_ns <= ns <= self.end_ns:
            given = f"{time_s} s" if time_s is not None else f"{ns} ns"
            raise OptionError(
                f"the moment {given} lies outside the recording: its first event is at 0 s ({self.start_ns} ns), its "
                f"last at {self.duration_s:.6f} s ({self.end_ns} ns)"
            )
        return self._moment(ns, self._timeline.positions_at(ns))

    def _ns_of(self, time_s: float) -> int | None:
        if not 0 <= time_s * 1e9 <= self.end_ns - self.start_ns + ROUNDING_NS:  # false for NaN, too
            return None
        return min(self.end_ns, self.start_ns + round(time_s * 1e9))

    def _place_of_step(self, step: int) -> Place:
        if self.schedulers:
            number = step_position(self._timeline.streams[self.schedulers[0]], step)
            if number is not None:
                return self._timeline.place_of(self.schedulers[0], number)
        steps = self.steps
        there = f"{steps.start} to {steps.stop - 1}" if len(steps) else "none"
        raise OptionError(f"step {step} isn't in the recording; the steps in it: {there}")

    def _moment_after(self, place: Place) -> Moment:
        return self._moment(place.ns, self._timeline.positions_after(place))

    def _after_or_none(self, place: Place | None) -> ServerState | None:
        return None if place is None else self.state(self._moment_after(place))

    def state(self, moment: Moment) -> ServerState:
        """The server at a moment that `locate` gave, or another state's."""
        ns, positions = moment.ns, moment.positions
        around = self._around()
        first = self.schedulers[0] if self.schedulers else None
        return ServerState(
            moment=moment,
            level=self.level,
            processes=tuple(looking.activity(ns, positions[name]) for name, looking in around.items()),
            schedulers=tuple(self._view(name, positions[name]) for name in self.schedulers),
            steps_in_flight=around[first].steps_in_flight(ns, positions[first]) if first is not None else (),
            find_messages=self._messages_at,
        )

    def _moment(self, ns: int, positions: dict[str, int]) -> Moment:
        time_s = (ns - self.start_ns) / 1e9
        newest = self._timeline.newest(positions)
        if newest is None:
            return Moment(ns, time_s, None, None, None, positions)
        event = self._timeline.event(newest.process, newest.number)
        kind = kind_of(event) if event is not None else None
        return Moment(ns, time_s, newest.process, newest.number, kind, positions)

    def _around(self) -> dict[str, Around]:
        streams = self._timeline.streams
        parent = next((stream for name, stream in streams.items() if self.trace.process(name).does("api")), None)
        return {
            name: Around(stream, self.trace.process(name), None if parent is stream else parent)
            for name, stream in streams.items()
        }

    def _view(self, name: str, position: int) -> SchedulerView:
        fold = self._seekers[name].fold_at(position)
        return SchedulerView(name, fold.is_known, self._has_pages, self._page_size(name), fold.state)

    def _page_size(self, name: str) -> int | None:
        """Tokens a page: from the scheduler's first events, or else as the server was told."""
        if self._page_sizes.get(name) is None:
            stream = self._timeline.streams[name]
            early = stream.forward(stream.first, stream.first + START_EVENTS) if stream.first == 1 else ()
            ready = (entry.event.page_size for entry in early if isinstance(entry.event, events.EngineReady))
            self._page_sizes[name] = next(ready, None) or self._page_size_told()
        return self._page_sizes[name]

    def _page_size_told(self) -> int | None:
        config = self.trace.manifest.get("config")
        engine = config.get("engine") if isinstance(config, dict) else None
        size = engine.get("page_size") if isinstance(engine, dict) else None
        return size if isinstance(size, int) else None

    def _messages_at(self, moment: Moment) -> tuple[MessageInFlight, ...] | None:
        if not self._has_pages:
            return None
        return self._index().in_flight(moment.ns, moment.positions, self._timeline.event)

    # ------------------------------------------------------------ stepping

    def next_event(self, state: ServerState) -> ServerState | None:
        """The state after the next event of any process; `None` at the end."""
        return self._after_or_none(self._timeline.following(state.moment.positions))

    def previous_event(self, state: ServerState) -> ServerState | None:
        """The state before the newest event; `None` where that is the first one."""
        return self._after_or_none(self._timeline.preceding(state.moment.positions))

    def next_step(self, state: ServerState) -> ServerState | None:
        """The state after the first scheduler's next `sched.step`; `None` where there is none."""
        return self._after_or_none(
            self._timeline.find_after(state.moment.positions, _is_step, self.schedulers[:1])
        )  # fmt: skip

    def previous_step(self, state: ServerState) -> ServerState | None:
        """The state after the first scheduler's last `sched.step` before the newest event; `None` likewise."""
        return self._after_or_none(
            self._timeline.find_before(state.moment.positions, _is_step, self.schedulers[:1])
        )  # fmt: skip

    def next_of(self, state: ServerState, uid: int) -> ServerState | None:
        """The state after the next event that names a request; `None` where there is none."""
        return self._after_or_none(
            self._timeline.find_after(state.moment.positions, lambda entry: is_about(entry, uid))
        )  # fmt: skip

    def previous_of(self, state: ServerState, uid: int) -> ServerState | None:
        """The state after the last event before the newest one that names a request; `None` where there is none."""
        return self._after_or_none(
            self._timeline.find_before(state.moment.positions, lambda entry: is_about(entry, uid))
        )  # fmt: skip


def _is_step(entry: Entry) -> bool:
    return isinstance(entry.event, events.SchedStep)
