"""A trace in words: tables of runs, processes and requests, and events as JSON. `commands.py` prints what is made here.

The demo uses `request_rows` and `table` too.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from learnsgl.errors import LearnsglError
from learnsgl.trace.checks.base import ints
from learnsgl.trace.life import STAGES, RequestLife
from learnsgl.trace.reader import Entry, Trace
from learnsgl.trace.schema import array_fields
from learnsgl.trace.text import is_text_removed

FOLLOW_PAUSE_S = 0.2
Row = tuple[str, ...]


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned columns, the first row being their heads; columns of numbers are aligned to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    right = [
        all(cell[:1].isdigit() or cell == "-" for cell in column[1:]) for column in zip(*rows, strict=True)
    ]  # fmt: skip
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def run_rows(runs: Sequence[Path]) -> list[Row]:
    """A row for each run: date, model, level, duration, processes, events, bytes, state."""
    rows: list[Row] = [("started (UTC)", "model", "level", "seconds", "processes", "events", "bytes", "state", "run")]
    for path in runs:
        try:
            trace = Trace.open(path)
            span = trace.span_ns()
        except LearnsglError as error:
            rows.append(("-", "-", "-", "-", "-", "-", "-", "broken", f"{path.name}: {error}"))
            continue
        seconds = f"{(span[1] - span[0]) / 1e9:.1f}" if span else "-"
        numbers = (str(len(trace.processes)), f"{trace.num_events:,}", f"{trace.num_bytes:,}")
        started = str(trace.manifest.get("started", "-"))[:19].replace("T", " ")
        rows.append((started, _model(trace), trace.level or "-", seconds, *numbers, state(trace), path.name))
    return rows


def describe(trace: Trace) -> str:
    """The manifest of a trace in a few lines."""
    manifest = trace.manifest
    level = f"{trace.level or '-'}{' (its text was removed)' if is_text_removed(trace) else ''}"
    lines = [
        f"run       {manifest.get('run_id', '-')}, started {manifest.get('started', '-')}, {state(trace)}",
        f"recorded  level {level}, {trace.num_events:,} events, {trace.num_bytes:,} bytes",
        f"command   {' '.join(str(word) for word in manifest.get('command', []))}",
        f"model     {_model(trace)}",
    ]
    if error := manifest.get("error"):
        lines.append(f"failed    {error}")
    for area in ("hardware", "versions"):
        facts = manifest.get(area)
        if isinstance(facts, dict):
            lines.append(f"{area:8}  " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    return "\n".join(lines)


def process_rows(trace: Trace) -> list[Row]:
    """A row for each process: who it was, what it recorded, and whether that is whole."""
    rows: list[Row] = [("process", "role", "pid", "events", "bytes", "files", "recording")]
    for name in trace.processes:
        index = trace.process(name)
        missing = [f"from event {index.first}"] if index.first > 1 else []
        end = "stopped" if trace.is_stopped else "cut off"
        missing += [end] if trace.is_cut(name) else []
        facts = (str(index.fact("role") or "-"), str(index.fact("pid") or "-"))
        numbers = (f"{index.num_events:,}", f"{index.num_bytes:,}", str(len(index.segments)))
        rows.append((name, *facts, *numbers, ", ".join(missing) or "whole"))
    return rows


def request_rows(lives: Sequence[RequestLife]) -> list[Row]:
    """A row for each request: its ending, its tokens, TTFT, TPOT and the eight stages in milliseconds."""
    heads = ("request", "ending", "prompt", "cached", "generated", "TTFT ms", "TPOT ms")
    rows: list[Row] = [(*heads, *(f"{place}:{name}" for place, name in enumerate(STAGES, start=1)))]
    for life in lives:
        name = str(life.key.uid) + (f".{life.key.choice}" if life.key.choice else "")
        tokens = (life.prompt_tokens, life.cached_tokens, life.generated_tokens)
        times = (life.ttft_s, life.tpot_s, *(stage.seconds if stage else None for stage in life.stages))
        rows.append((name, life.reason or "none yet", *(_text(number) for number in tokens), *(_ms(s) for s in times)))
    return rows


def state(trace: Trace) -> str:
    """Whether every process's recording has its end."""
    if trace.is_stopped:
        return "stopped while the server went on"
    open_ended = [name for name in trace.processes if trace.is_cut(name)]
    return "no end yet: running, or cut off" if open_ended or not trace.processes else "ended"


def to_json(entry: Entry) -> dict[str, Any]:
    """An event as `trace cat` prints it: process, its number there, kind, then the fields by name, arrays as lists."""
    fields = {name: getattr(entry.event, name) for name in entry.event.__struct_fields__}
    for name, dtype in array_fields(type(entry.event)).items():
        fields[name] = ints(fields[name], dtype).tolist()
    for name, value in fields.items():
        if isinstance(value, dict):  # a keyframe's columns
            fields[name] = {
                column: ints(data, "int64").tolist() if isinstance(data, bytes) else data
                for column, data in value.items()
            }
    return {"process": entry.process, "event": entry.number, "kind": entry.kind, **fields}


def follow(trace: Trace, process: str | None) -> Iterator[Entry]:
    """The events of a trace (of one process, or all by time), and those that are still being added, until its end."""
    seen: dict[str, int] = {}
    while True:
        names = trace.processes if process is None else (process,)
        streams = [trace.events(name, start=seen.get(name, 0) + 1) for name in names]
        for entry in heapq.merge(*streams, key=lambda entry: (entry.event.ns, entry.process, entry.number)):
            seen[entry.process] = entry.number
            yield entry
        if not any(trace.is_cut(name) for name in names) or trace.is_stopped or not trace.path.is_dir():
            return  # all have ended, or nothing can be added to a packed file
        time.sleep(FOLLOW_PAUSE_S)
        trace = Trace.open(trace.path)


def _model(trace: Trace) -> str:
    model = trace.manifest.get("model")
    if isinstance(model, dict) and model.get("name"):
        return str(model["name"])
    config = trace.manifest.get("config")
    engine = config.get("engine") if isinstance(config, dict) else None
    return str(engine.get("model", "-")) if isinstance(engine, dict) else "-"


def _text(number: int | None) -> str:
    return "-" if number is None else str(number)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"
