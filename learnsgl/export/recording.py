"""What every format says of a recording as a whole: its run, its model, its clock, and what is missing in it.

The writers call this once each; `read_through` is the one loop through the events, so that progress is told, a
contradiction is named and text is left out in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from learnsgl.config import TraceLevel
from learnsgl.trace.checks.base import violation
from learnsgl.trace.clock import ClockAnchor, anchor_from_json
from learnsgl.trace.pack import without_paths
from learnsgl.trace.reader import Entry, Trace
from learnsgl.trace.show import to_json

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called now and then with the events that were read, and with all there are."""
_TELL_EVERY = 2048
_NO_TEXT_FIELDS = ("process", "event", "kind", "ns", "step", "uid", "uids", "choice", "choices")
"""Of an event that is recorded at level `tokens` only: what says nothing of the text."""


@dataclass(frozen=True)
class Facts:
    """A recording as a whole.

    Attributes:
        run_id: the run's id; empty where neither the manifest nor a file's header has one.
        model: the model's name; empty where it isn't known.
        level: steps, full or tokens; `None` where no header is readable.
        anchors: where wall-clock time is known, by rising moments; jumps back of the wall clock are left out.
        metadata: run, model, versions and hardware, for whoever opens the export; without absolute paths.
        notes: what is missing in the recording, a sentence each.
    """

    run_id: str
    model: str
    level: str | None
    anchors: tuple[ClockAnchor, ...]
    metadata: dict[str, Any]
    notes: tuple[str, ...]

    def unix_ns(self, ns: int) -> int:
        """Nanoseconds since 1970 UTC of a moment of the trace; without any anchor, the moment itself."""
        if not self.anchors:
            return ns
        return self.anchors[0].time_ns + ns - self.anchors[0].monotonic_ns


def facts_of(trace: Trace) -> Facts:
    """What is known of a recording before its events are read."""
    manifest = trace.manifest
    run_id = manifest.get("run_id") or _header_fact(trace, "run_id") or ""
    model = _model_of(manifest)
    kept = {name: manifest[name] for name in ("started", "versions", "hardware", "engine") if name in manifest}
    notes = tuple(notes_of(trace))
    own = {"run_id": str(run_id), "level": trace.level, "model": model, "notes": list(notes)}
    return Facts(str(run_id), model, trace.level, _anchors(trace), without_paths({**own, **kept}), notes)


def notes_of(trace: Trace) -> list[str]:
    """What an export of this trace lacks, and why, in sentences. Empty for a whole recording of level full."""
    notes = []
    if not trace.processes:
        notes.append("the trace holds no events: nothing was recorded, or its files are gone")
    for name in trace.processes:
        if trace.begins_late(name):
            notes.append(f"{name}: its first events are missing; the recording begins at event {_first(trace, name)}")
        if trace.is_cut(name):
            notes.append(f"{name}: the recording is cut off, or still goes on; what is there was exported")
    if trace.level == TraceLevel.STEPS:
        notes.append("level steps: no messages, no cache, no detokenizing and no waiting for the device in it")
    return notes


def read_through(trace: Trace, take: Callable[[Entry], Iterable[T]], progress: Progress | None) -> Iterator[T]:
    """What `take` makes of each event, by their moments; `progress` hears of them.

    Raises:
        TraceFormatError: a frame of the trace is broken.
        TraceViolation: an event's fields don't belong together; it is named.
    """
    total = trace.num_events
    count = 0
    for count, entry in enumerate(trace.events(), start=1):
        try:
            made = list(take(entry))
        except (ValueError, IndexError, KeyError) as error:
            raise violation(entry, f"it can't be exported, for its fields don't belong together: {error}") from error
        yield from made
        if progress is not None and count % _TELL_EVERY == 0:
            progress(count, total)
    if progress is not None:
        progress(count, total)


def fields_of(entry: Entry, *, with_text: bool) -> dict[str, Any]:
    """An event as `trace cat` prints it; without text and token ids unless they are wanted."""
    fields = to_json(entry)
    if entry.event.LEVEL is TraceLevel.TOKENS and not with_text:
        return {name: value for name, value in fields.items() if name in _NO_TEXT_FIELDS}
    return fields


def _first(trace: Trace, process: str) -> int:
    return trace.process(process).first


def _header_fact(trace: Trace, key: str) -> Any:
    return next((fact for name in trace.processes if (fact := trace.process(name).fact(key))), None)


def _model_of(manifest: dict[str, Any]) -> str:
    for area, key in (("model", "name"), ("engine", "model")):
        facts = manifest.get(area)
        if isinstance(facts, dict) and facts.get(key):
            return str(without_paths(str(facts[key])))
    config = manifest.get("config")
    engine = config.get("engine") if isinstance(config, dict) else None
    return str(without_paths(str(engine.get("model") or ""))) if isinstance(engine, dict) else ""


def _anchors(trace: Trace) -> tuple[ClockAnchor, ...]:
    headers = [segment.header for name in trace.processes for segment in trace.process(name).segments]
    found = [anchor_from_json(facts.get("clock")) for facts in (trace.manifest, *headers)]
    rising: list[ClockAnchor] = []
    for anchor in sorted({anchor for anchor in found if anchor is not None}):
        if not rising or (anchor.monotonic_ns > rising[-1].monotonic_ns and anchor.time_ns > rising[-1].time_ns):
            rising.append(anchor)
    return tuple(rising)
