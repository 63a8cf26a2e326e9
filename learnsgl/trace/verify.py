"""Proof that a recording is complete and doesn't contradict itself, or the first event at which it does.

`learnsgl trace verify` and the tests call `verify`. One pass over all processes' events, merged by time, feeds the
checks in `trace/checks/`. Whatever is missing must be missing for a recorded reason: a process that died, files
dropped by the limit on size, a disk that took no more, a recording that began late. Those become notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learnsgl.errors import TraceViolation
from learnsgl.trace.checks.base import Check, Handler, Missing, Scope
from learnsgl.trace.checks.messages import MessageCheck
from learnsgl.trace.checks.processes import LevelCheck, NumberCheck, ProcessCheck
from learnsgl.trace.checks.requests import RequestCheck
from learnsgl.trace.checks.state import StateCheck
from learnsgl.trace.checks.steps import StepCheck
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Trace


@dataclass(frozen=True)
class Report:
    """What was proved of a trace, and what could not be.

    Attributes:
        path: the trace.
        level: what was recorded: steps, full or tokens.
        proved: a line for each subject, with counts.
        notes: a line for each part that is missing for a recorded reason.
    """

    path: Path
    level: str
    proved: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.notes

    def __str__(self) -> str:
        lines = [f"verified: {self.path} (level {self.level})", *(f"  {line}" for line in self.proved)]
        if self.notes:
            lines += ["not proved, for recorded reasons:", *(f"  {line}" for line in self.notes)]
        return "\n".join(lines)


def verify(trace: Trace) -> Report:
    """Check everything that the trace's level and cuts allow.

    Raises:
        TraceViolation: the trace contradicts itself; process, number and kind of the first event that does are named.
        TraceFormatError: a frame is broken.
    """
    if not trace.processes:
        raise TraceViolation(f"{trace.path}: no process recorded anything")
    scope = Scope(trace)
    checks: list[Check] = [
        NumberCheck(scope),
        LevelCheck(scope),
        ProcessCheck(scope),
        MessageCheck(scope),
        RequestCheck(scope),
        StepCheck(scope),
        StateCheck(scope),
    ]
    handlers: dict[type[Event], list[Handler]] = {}
    for wanted in [scope.handlers(), *(check.handlers() for check in checks)]:
        for kind, handler in wanted.items():
            handlers.setdefault(kind, []).append(handler)
    for entry in trace.events():
        for handler in handlers.get(type(entry.event), ()):
            handler(entry, entry.event)
    missing = [found for check in checks for found in check.finish()]
    if missing:
        raise _first(missing)
    for kind_name, count in sorted(trace.unknown.items()):
        scope.notes.append(f"{count} events of the unknown kind {kind_name} were skipped: recorded by a newer version?")
    proved = [line for check in checks for line in check.proved()]
    return Report(trace.path, trace.level or "unknown", tuple(proved), tuple(scope.notes))


def _first(missing: list[Missing]) -> TraceViolation:
    first = min(missing, key=lambda found: (found.place.ns, found.place.process, found.place.number))
    return first.place.violation(first.text)
