"""`learnsgl trace show`: the server at a moment of a recording, once, or again and again while it is recorded.

`trace/commands.py` declares the command and calls `show_command`.
"""

from __future__ import annotations

import shutil
import time
from typing import TextIO

import msgspec

from learnsgl.errors import OptionError
from learnsgl.replay.moments import find_moment
from learnsgl.replay.replay import Replay
from learnsgl.replay.server_state import ServerState
from learnsgl.replay.show import show
from learnsgl.replay.state_json import state_json

FOLLOW_PAUSE_S = 0.5
CLEAR = "\x1b[H\x1b[J"
"""Puts the cursor into the corner and clears what is below it."""


def show_command(replay: Replay, out: TextIO, *, at: str | None, follow: bool, as_json: bool, color: bool) -> int:
    """Print the state.

    Args:
        replay: the recording.
        out: where to.
        at: what `--at` says; `None` for the default.
        follow: print the end again whenever more was recorded, until every process has ended.
        as_json: print JSON, a line for each state.
        color: whether `out` is a terminal that shows colours.

    Returns:
        The exit code.

    Raises:
        OptionError: `--at` can't be read, or both `--at` and `--follow` are given.
    """
    if follow and at is not None:
        raise OptionError("--follow shows the end again and again; leave --at out, or --follow")
    if not follow:
        state, why = (replay.state(find_moment(replay, at)), "") if at is not None else default_state(replay)
        out.write(_text(state, as_json=as_json, color=color))
        if why and not as_json:
            out.write(f"\nshown: {why}. --at chooses another moment: 12.5s, step:40, scheduler-0:1234, start, end\n")
        out.flush()
        return 0
    while True:
        out.write((CLEAR if color else "") + _text(replay.end(), as_json=as_json, color=color))
        out.write("" if as_json or color else "\n")
        out.flush()
        if replay.has_ended:
            return 0
        while not replay.refresh() and not replay.has_ended:
            time.sleep(FOLLOW_PAUSE_S)


def _text(state: ServerState, *, as_json: bool, color: bool) -> str:
    if as_json:
        return msgspec.json.encode(state_json(state)).decode() + "\n"
    return show(state, width=shutil.get_terminal_size((120, 24)).columns, color=color) + "\n"


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
