"""Moments of a recording as people write them: `12.5s`, `step:40`, `scheduler-0:1234`, `start`, `end`.

The commands that take `--at` call `find_moment`; `in_words` writes a moment the way it can be given back.
"""

from __future__ import annotations

import re

from learnsgl.errors import OptionError
from learnsgl.replay.replay import Replay
from learnsgl.replay.server_state import Moment
from learnsgl.trace.reader import Trace

_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|ms|us|µs)?")
_STEP = re.compile(r"step[\s:]\s*(\d{1,18})")
_EVENT = re.compile(r"([A-Za-z0-9_-]+):(\d{1,18})")
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def find_moment(replay: Replay, text: str) -> Moment:
    """The moment that `--at TEXT` names.

    Args:
        replay: the recording.
        text: `start`; `end`; `12.5s` or `80ms` from the first event, seconds where no unit is given; `step:40` or
            `step 40`, right after that step was submitted; `scheduler-0:1234`, right after that process's event.

    Raises:
        OptionError: it is none of these, or not in the recording; the message lists what is.
        TraceFormatError: a frame is broken.
    """
    words = text.strip()
    if words in ("start", "end"):
        return replay.locate(ns=replay.start_ns if words == "start" else replay.end_ns)
    try:
        if match := _TIME.fullmatch(words):
            return replay.locate(time_s=float(match[1]) * _UNITS[match[2] or "s"])
        if match := _STEP.fullmatch(words):
            return replay.locate(step=int(match[1]))
        if match := _EVENT.fullmatch(words):
            return replay.locate(event=(match[1], int(match[2])))
    except OptionError as error:
        raise OptionError(f"--at {text!r}: {error}. {_forms(replay)}") from None
    raise OptionError(f"--at {text!r} can't be read. {_forms(replay)}")


def in_words(ns: int, trace: Trace) -> str:
    """A moment as `find_moment` reads it: `12.500000s` since the trace's first event."""
    span = trace.span_ns()
    return f"{(ns - (span[0] if span else 0)) / 1e9:.6f}s"


def _forms(replay: Replay) -> str:
    steps = replay.steps
    numbers = []
    for name in replay.trace.processes:
        index = replay.trace.process(name)
        if index.num_events:
            numbers.append(f"{name}:{index.first} to {name}:{index.last}")
    forms = ["start", "end", f"a time from 0s to {replay.duration_s:.6f}s"]
    forms += [f"a step from step:{steps.start} to step:{steps.stop - 1}"] if len(steps) else []
    return f"Give {', '.join(forms)}, or an event from {', '.join(numbers)}"
