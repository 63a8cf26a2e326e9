"""Chrome's trace event format: one JSON object that chrome://tracing, Perfetto and Speedscope open.

`formats.py` calls `write_chrome`. The content is that of `perfetto.py`, since both write what `telling.py` tells.

Source: the Chromium project's "Trace Event Format".
"""

from __future__ import annotations

from typing import Any

import msgspec

from learnsgl.export.output import Writable
from learnsgl.export.recording import Progress, facts_of
from learnsgl.export.telling import tell
from learnsgl.export.tracks import Group, Instant, Item, Sample, Slice, Track, TrackKind
from learnsgl.trace.reader import Trace

_FLOW_NAME, _FLOW_CATEGORY = "message", "msg"
"""Both ends of a flow must have the same name and category."""
JsonEvent = dict[str, Any]


def write_chrome(trace: Trace, output: Writable, *, with_text: bool = False, progress: Progress | None = None) -> None:
    """Write a trace as Chrome's JSON object, an event a line.

    Timestamps are microseconds on the trace's own clock, as floats that keep the nanoseconds.
    """
    encoder = msgspec.json.Encoder()
    facts = facts_of(trace)
    clock = [anchor.to_json() for anchor in facts.anchors]
    head = encoder.encode({"displayTimeUnit": "ms", "metadata": {**facts.metadata, "clock": clock}})
    output.write(head[:-1] + b',"traceEvents":[')
    separator = b"\n"
    for item in tell(trace, with_text=with_text, progress=progress):
        for event in events_of(item):
            output.write(separator + encoder.encode(event))
            separator = b",\n"
    output.write(b"\n]}\n")


def events_of(item: Item) -> list[JsonEvent]:
    """The trace events of an item."""
    match item:
        case Slice():
            return _slice_events(item)
        case Sample():
            place = {"pid": item.track.group.pid, "ts": item.ns / 1e3}
            return [{"ph": "C", "name": item.track.name, **place, "args": {item.track.unit: item.value}}]
        case Instant():
            event = {"ph": "i", "s": "t", "name": item.name, "cat": item.category, "ts": item.ns / 1e3}
            return [{**event, **_thread(item.track), "args": item.args}]
        case Track():
            return [] if item.kind is TrackKind.COUNTER else _named("thread", item.name, item.rank, _thread(item))
        case Group():
            return _named("process", item.name, item.rank, {"pid": item.pid})


def _slice_events(item: Slice) -> list[JsonEvent]:
    thread = _thread(item.track)
    start = {"ts": item.start_ns / 1e3, **thread}
    length = {"dur": (item.end_ns - item.start_ns) / 1e3}
    events: list[JsonEvent] = [
        {"ph": "X", "name": item.name, "cat": item.category, **start, **length, "args": item.args}
    ]
    flow = {"name": _FLOW_NAME, "cat": _FLOW_CATEGORY, **start}
    if item.flow_out is not None:
        events.append({"ph": "s", "id": item.flow_out, **flow})
    if item.flow_in is not None:
        events.append({"ph": "f", "bp": "e", "id": item.flow_in, **flow})  # e: the slice around it, not the next one
    for child in item.children:
        events += _slice_events(child)
    return events


def _thread(track: Track) -> JsonEvent:
    return {"pid": track.group.pid, "tid": track.id}


def _named(what: str, name: str, rank: int, place: JsonEvent) -> list[JsonEvent]:
    return [
        {"ph": "M", "name": f"{what}_name", **place, "args": {"name": name}},
        {"ph": "M", "name": f"{what}_sort_index", **place, "args": {"sort_index": rank}},
    ]
