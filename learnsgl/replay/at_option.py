"""What `learnsgl trace show --at` may say, and the state that it names.

`commands.py` calls `state_at`. Without `--at` it shows where there is something to see: `default_state`.
"""

from __future__ import annotations

import re

from learnsgl.errors import OptionError
from learnsgl.replay.replay import Replay
from learnsgl.replay.server_state import ServerState

_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|ms|us|µs)")
_STEP = re.compile(r"step[\s:]\s*(\d{1,18})")
_EVENT = re.compile(r"([A-Za-z0-9_-]+):(\d{1,18})")
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def state_at(replay: Replay, text: str) -> ServerState:
    """The state that `--at TEXT` names.

    Args:
        replay: the recording.
        text: `start`, `end`, `12.5s` or `80ms` from the first event, `step 40` or `step:40`, `scheduler-0:1234`.

    Raises:
        OptionError: it is none of these, or not in the recording; the message lists what is.
    """
    words = text.strip()
    if words in ("start", "end"):
        return replay.start() if words == "start" else replay.end()
    try:
        if match := _TIME.fullmatch(words):
            return replay.at(time_s=float(match[1]) * _UNITS[match[2]])
        if match := _STEP.fullmatch(words):
            return replay.at(step=int(match[1]))
        if match := _EVENT.fullmatch(words):
            return replay.at(event=(match[1], int(match[2])))
    except OptionError as error:
        raise OptionError(f"--at {text!r}: {error}. {_forms(replay)}") from None
    raise OptionError(f"--at {text!r} can't be read. {_forms(replay)}")


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


def default_state(replay: Replay) -> tuple[ServerState, str]:
    """What is shown without `--at`, and why.

    A recording that goes on, or was cut off, is shown at its end: that is where the server is, or what it was doing
    when it died. At the end of one that ended in order there is nothing left to see, so the middle one of its steps is
    shown.
    """
    steps = replay.steps
    if replay.has_whole_end and len(steps):
        middle = steps[len(steps) // 2]
        return replay.at(step=middle), f"step {middle}, the middle one of {len(steps)}"
    return replay.end(), "the end"
