"""Event numbers without a gap, levels kept, and each process's life: it begins, ends or is lost, and the parent knows.

`verify.py` runs these checks first, since the others rest on them.
"""

from __future__ import annotations

from collections.abc import Iterator

from learnsgl.config import TraceLevel
from learnsgl.trace import events
from learnsgl.trace.checks.base import Check, Handler, Missing, Place, Scope, place_of, violation
from learnsgl.trace.events import KINDS, Event
from learnsgl.trace.reader import Entry
from learnsgl.trace.text import is_text_removed, is_without_text


class NumberCheck(Check):
    """No process's numbers have a gap, unless `trace.dropped` stands right behind it and names just those."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._gaps: dict[str, list[tuple[int, int]]] = {}
        for name in scope.trace.processes:
            index = scope.trace.process(name)
            if index.first > 1 and index.num_dropped_segments:
                scope.notes.append(
                    f"{name}: events 1 to {index.first - 1} are gone with {index.num_dropped_segments} old files, "
                    "dropped by the limit on size"
                )
            expected = (index.fact("first") or index.first) if index.num_dropped_segments else 1
            gaps = self._gaps[name] = []
            for frame in index.frames:
                if frame.header.first != expected:
                    gaps.append((expected, frame.header.first))
                expected = frame.header.last + 1

    def handlers(self) -> dict[type[Event], Handler]:
        """Every kind: each event's number counts."""
        return dict.fromkeys(KINDS.values(), self._any)

    def _any(self, entry: Entry, event: Event) -> None:
        gaps = self._gaps[entry.process]
        if not gaps or entry.number < gaps[0][1]:
            return
        expected, found = gaps.pop(0)
        if found < expected:
            raise violation(entry, f"the number {found} is there twice")
        said = (event.first, event.last) if isinstance(event, events.TraceDropped) else None
        if entry.number != found or said != (expected, found - 1):
            raise violation(entry, f"events {expected} to {found - 1} are missing, and nothing says why")
        assert isinstance(event, events.TraceDropped)
        self._scope.notes.append(f"{entry.process}: events {expected} to {found - 1} were lost ({event.reason})")

    def finish(self) -> Iterator[Missing]:
        """Nothing can be missing at the end that is not a cut, which `ProcessCheck` judges."""
        yield from ()

    def proved(self) -> list[str]:
        """Events a process."""
        counts = {name: self._scope.trace.process(name).num_events for name in self._scope.trace.processes}
        each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        return [f"numbers   {sum(counts.values()):,} events without a gap ({each})"]


class LevelCheck(Check):
    """No event is of a higher level than the trace: below `tokens` neither text nor token ids are in it.

    At level `tokens` neither is there where the files' headers say that `trace pack` has removed them.
    """

    def __init__(self, scope: Scope) -> None:
        self._level = scope.trace.level
        self._is_text_removed = is_text_removed(scope.trace)
        self._num_cleaned = 0

    def handlers(self) -> dict[type[Event], Handler]:
        """The kinds that must not be there."""
        if self._level not in set(TraceLevel):
            return {}
        order = list(TraceLevel)
        rank = order.index(TraceLevel(self._level))
        wanted: dict[type[Event], Handler] = {
            kind: self._on_higher for kind in KINDS.values() if order.index(kind.LEVEL) > rank
        }
        if self._is_text_removed:
            wanted |= {kind: self._on_text for kind in KINDS.values() if kind.LEVEL is TraceLevel.TOKENS}
        return wanted

    def _on_higher(self, entry: Entry, event: Event) -> None:
        raise violation(entry, f"is of level {event.LEVEL.value}, and the trace is of level {self._level}")

    def _on_text(self, entry: Entry, event: Event) -> None:
        if not is_without_text(event):
            raise violation(entry, "holds text or token ids, and the file's header says that they were removed")
        self._num_cleaned += 1

    def finish(self) -> Iterator[Missing]:
        """Nothing can be missing here."""
        yield from ()

    def proved(self) -> list[str]:
        """Whether text can be in the trace."""
        if self._is_text_removed:
            return [
                f"level     {self._level}, packed without text: {self._num_cleaned:,} events of prompts and answers "
                "are empty, so no text and no token ids"
            ]
        if self._level == TraceLevel.TOKENS:
            return ["level     tokens: prompts and answers are in this trace"]
        return [f"level     nothing above {self._level}, so no text and no token ids"]


class ProcessCheck(Check):
    """Each process's first and last event, and what the parent says of its children."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._begun: set[str] = set()
        self._spawned: dict[str, Place] = {}
        self._pids: dict[str, int] = {}
        self._over: dict[str, tuple[Place, int | None]] = {}
        self._ready: set[str] = set()

    def handlers(self) -> dict[type[Event], Handler]:
        """The kinds of the family `process.*`, and every first and last event."""
        return dict.fromkeys(KINDS.values(), self._any) | {
            events.ProcessStarted: self._started,
            events.ProcessSpawned: self._spawn,
            events.ProcessReady: self._child_ready,
            events.ProcessLost: self._child_over,
            events.ProcessExited: self._child_over,
        }

    def _any(self, entry: Entry, event: Event) -> None:
        name = entry.process
        if name not in self._begun:
            self._begun.add(name)
            if entry.number == 1 and not isinstance(event, events.ProcessStarted):
                raise violation(entry, "a process's first event must be process.started")
        if entry.number == 2 and not isinstance(event, events.TraceBegin):
            raise violation(entry, "a process's second event must be trace.begin")
        last = self._scope.trace.process(name).last
        if isinstance(event, events.ProcessEnded) and entry.number != last:
            raise violation(entry, f"the process has ended, but {last - entry.number} events follow")

    def _started(self, entry: Entry, event: events.ProcessStarted) -> None:
        self._any(entry, event)
        pid = self._scope.trace.process(entry.process).fact("pid")
        if entry.number != 1 or event.name != entry.process or event.pid != pid:
            raise violation(entry, f"is {event.name}, pid {event.pid}; the file is of {entry.process}, pid {pid}")

    def _spawn(self, entry: Entry, event: events.ProcessSpawned) -> None:
        self._any(entry, event)
        if event.name in self._spawned:
            raise violation(entry, f"{event.name} was started before, at event {self._spawned[event.name].number}")
        self._spawned[event.name] = place_of(entry)
        self._pids[event.name] = event.pid

    def _child_ready(self, entry: Entry, event: events.ProcessReady) -> None:
        self._any(entry, event)
        if event.name not in self._spawned and entry.process not in self._scope.late:
            raise violation(entry, f"{event.name} is ready, but was never started")
        if event.name in self._ready:
            raise violation(entry, f"{event.name} became ready twice")
        self._ready.add(event.name)

    def _child_over(self, entry: Entry, event: events.ProcessLost | events.ProcessExited) -> None:
        self._any(entry, event)
        if event.name in self._over:
            raise violation(entry, f"{event.name} ended before, at event {self._over[event.name][0].number}")
        if self._pids.get(event.name, event.pid) != event.pid:
            raise violation(entry, f"{event.name} ended as pid {event.pid}, started as {self._pids[event.name]}")
        in_order = isinstance(event, events.ProcessExited)
        self._over[event.name] = (place_of(entry), event.exit_code if in_order else None)

    def finish(self) -> Iterator[Missing]:
        """Children whose end nobody recorded, and recordings that stop although the process ended in order."""
        scope = self._scope
        parents = {place.process for place in self._spawned.values()}
        for name, place in self._spawned.items():
            parent_is_whole = not scope.is_cut(place.process) and place.process not in scope.dropped
            if name not in self._over and parent_is_whole:
                yield Missing(place, f"{name} was started, but neither process.exited nor process.lost follows")
        for name, (place, exit_code) in self._over.items():
            if exit_code == 0 and (name not in scope.trace.processes or scope.trace.is_cut(name)):
                yield Missing(place, f"{name} ended in order, but its recording has no process.ended")
        for name in scope.trace.processes:
            if scope.trace.is_cut(name):
                scope.notes.append(self._cut_note(name, parents))

    def _cut_note(self, name: str, parents: set[str]) -> str:
        index = self._scope.trace.process(name)
        torn = f", after which {index.torn_bytes} bytes of a torn frame stand" if index.torn_bytes else ""
        if name in self._scope.lost:
            why = "it died (process.lost)"
        elif name in self._over:
            why = f"it ended with exit code {self._over[name][1]}"
        elif self._scope.trace.is_stopped:
            why = "it was stopped while the server went on"
        elif name in parents or not parents:
            why = "it was killed, or is still running"
        else:
            why = "it was killed with its parent, or is still running"
        return f"{name}: the recording stops at event {index.last}{torn}: {why}"

    def proved(self) -> list[str]:
        """Processes, and how they ended."""
        num_ended = len(self._scope.ended_ns)
        return [f"processes {len(self._scope.trace.processes)} began in order, {num_ended} ended in order"]
