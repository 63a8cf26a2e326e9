"""Moments of a recording as people write them: `12.5s`, `step:40`, `scheduler-0:1234`, `start`, `end`.

The commands that take `--at` call `parse_moment`; `in_words` writes a moment the way it can be given back.
"""

from __future__ import annotations

import re

from learnsgl.errors import OptionError
from learnsgl.trace.events import SchedStep
from learnsgl.trace.reader import Trace

_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|ms)?")
_STEP = re.compile(r"step[:\s]\s*(\d+)")
_EVENT = re.compile(r"(.+):(\d+)")


def parse_moment(text: str, trace: Trace) -> int:
    """A moment of a recording.

    Args:
        text: `12.5s` or `80ms` since the trace's first event; `step:40`, the moment at which that step was submitted;
            `scheduler-0:1234`, the moment of that process's event; `start`; `end`.
        trace: the recording.

    Returns:
        Nanoseconds on `time.monotonic_ns`.

    Raises:
        OptionError: the text is none of these, or lies outside of the recording.
        TraceFormatError: a frame is broken.
    """
    span = trace.span_ns()
    if span is None:
        raise OptionError(f"{trace.path}: the recording has no events, so it has no moment {text!r}")
    words = text.strip()
    if words in ("start", "end"):
        return span[0] if words == "start" else span[1]
    if match := _STEP.fullmatch(words):
        return _of_step(int(match[1]), text, trace)
    if match := _EVENT.fullmatch(words):
        return _of_event(match[1], int(match[2]), text, trace)
    if match := _SECONDS.fullmatch(words):
        ns = span[0] + round(float(match[1]) * (1e6 if match[2] == "ms" else 1e9))
        if ns <= span[1]:
            return ns
    raise _refusal(text, trace)


def in_words(ns: int, trace: Trace) -> str:
    """A moment as `parse_moment` reads it: `12.500000s` since the trace's first event."""
    span = trace.span_ns()
    return f"{(ns - (span[0] if span else 0)) / 1e9:.6f}s"


def _of_step(number: int, text: str, trace: Trace) -> int:
    for name in _schedulers(trace)[:1]:
        for entry in trace.events(name):
            if isinstance(entry.event, SchedStep) and entry.event.step == number:
                return entry.event.ns
    raise _refusal(text, trace)


def _of_event(process: str, number: int, text: str, trace: Trace) -> int:
    if process in trace.processes:
        entry = next(trace.events(process, start=number), None)
        if entry is not None and entry.number == number:
            return entry.event.ns
    raise _refusal(text, trace)


def _refusal(text: str, trace: Trace) -> OptionError:
    """The error that a moment can't be read or isn't in the recording; it says what would be."""
    span = trace.span_ns() or (0, 0)
    numbers = [f"{name}:{trace.process(name).first} to :{trace.process(name).last}" for name in trace.processes]
    steps = _step_range(trace)
    forms = [f"seconds since the first event (0s to {(span[1] - span[0]) / 1e9:.3f}s)"]
    forms += [f"a step (step:{steps[0]} to step:{steps[1]})"] if steps else []
    forms += [f"an event ({', '.join(numbers)})", "start or end"]
    return OptionError(f"no moment {text!r} in {trace.path}; give {'; '.join(forms)}")


def _step_range(trace: Trace) -> tuple[int, int] | None:
    steps = [
        entry.event.step
        for name in _schedulers(trace)[:1]
        for entry in trace.events(name)
        if isinstance(entry.event, SchedStep)
    ]
    return (steps[0], steps[-1]) if steps else None


def _schedulers(trace: Trace) -> list[str]:
    return [name for name in trace.processes if trace.process(name).does("scheduler")]
