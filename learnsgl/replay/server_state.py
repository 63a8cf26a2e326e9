"""The server at one moment of a recording, as plain data: what `Replay.at` gives.

The parts that cost something to spell out (requests, tree, owners of pages) are made when they are first asked for.
What the recording's level leaves out is `None`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from learnsgl.core import ReqKey
from learnsgl.errors import OptionError
from learnsgl.replay.activity import ProcessActivity, StepInFlight
from learnsgl.replay.messages import MessageInFlight
from learnsgl.replay.scheduler_view import PageHolders, RunningRequest, SchedulerView, TreeNode, WaitingRequest


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a recording: after all the events up to `positions`, and before any other.

    Attributes:
        ns: on `time.monotonic_ns`.
        time_s: seconds since the recording's first event.
        process, number, kind: the newest event; `None` before the first one, or where its kind is unknown.
        positions: number of the last event of each process that has happened; one less than the number of its first
            event in the recording where none has.
    """

    ns: int
    time_s: float
    process: str | None
    number: int | None
    kind: str | None
    positions: Mapping[str, int]


@dataclass(frozen=True)
class ServerState:
    """The server at a moment. Everything that speaks of the scheduler without naming one speaks of the first.

    Attributes:
        moment: when.
        level: steps, full or tokens; `None` where no file's header can be read.
        processes: what each does, in the order in which a request meets them.
        schedulers: the state of each scheduler; more than one with tensor parallelism.
        steps_in_flight: steps that the first scheduler has submitted and not committed, oldest first.
        find_messages: finds the messages on their way at a moment; `messages` calls it once.
    """

    moment: Moment
    level: str | None
    processes: tuple[ProcessActivity, ...]
    schedulers: tuple[SchedulerView, ...]
    steps_in_flight: tuple[StepInFlight, ...]
    find_messages: Callable[[Moment], tuple[MessageInFlight, ...] | None] = field(repr=False, compare=False)

    @cached_property
    def messages(self) -> tuple[MessageInFlight, ...] | None:
        """Messages on their way, oldest first; `None` at level `steps`. The first call reads the whole recording."""
        return self.find_messages(self.moment)

    @property
    def scheduler(self) -> SchedulerView | None:
        """The first scheduler; `None` where the recording has none, or the state of it isn't known at this moment."""
        return self.schedulers[0] if self.schedulers and self.schedulers[0].is_known else None

    @property
    def queue(self) -> tuple[WaitingRequest, ...] | None:
        """Waiting requests, the first in turn first."""
        return self.scheduler.queue if self.scheduler else None

    @property
    def running(self) -> tuple[RunningRequest, ...] | None:
        """Requests that hold a row, in the order of their rows."""
        return self.scheduler.running if self.scheduler else None

    @property
    def rows(self) -> tuple[ReqKey | None, ...] | None:
        """Who holds each row of the request table; `None` for a free one."""
        return self.scheduler.rows if self.scheduler else None

    @property
    def tree(self) -> Mapping[int, TreeNode] | None:
        """The radix tree by node; 0 is its root, which holds no pages."""
        return self.scheduler.tree if self.scheduler else None

    @property
    def free_pages(self) -> tuple[int, ...] | None:
        """Pages that nobody holds, ascending."""
        return self.scheduler.free_pages if self.scheduler else None

    def page(self, number: int) -> PageHolders | None:
        """Who holds a page.

        Raises:
            OptionError: there is no page with this number.
        """
        return self.scheduler.page(number) if self.scheduler else None

    def request(self, uid: int, choice: int = 0) -> RunningRequest | WaitingRequest | None:
        """A request that waits or runs in the scheduler; `None` where it does neither."""
        return self.scheduler.request(uid, choice) if self.scheduler else None

    def process(self, name: str) -> ProcessActivity:
        """What a process does.

        Raises:
            OptionError: there is no process of this name.
        """
        for activity in self.processes:
            if activity.name == name:
                return activity
        names = ", ".join(activity.name for activity in self.processes)
        raise OptionError(f"no process is called {name!r}; the recording has: {names}")
