"""What lesson 1.3, "Processes", asks of its readers, and how it shows a part of a source and the processes of a server.

Its notebook calls what is in here. Events come as dicts, as `learnsgl trace cat` prints them.
"""

from __future__ import annotations

import inspect
import signal
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learnsgl.lessons.checks import NotAttempted, NotYet, attempt, check, is_blank
from learnsgl.local_server import LocalServer
from learnsgl.ps.find import find_servers
from learnsgl.ps.look import look_at
from learnsgl.ps.show import show_server

JsonEvent = dict[str, Any]

START_UP = {
    "serving": "the API server's HTTP socket takes connections",
    "taken": "the API server takes the scheduler's acknowledgement from the start-up queue",
    "weights": "the scheduler has read the model's weights",
    "spawned": "the API server has started the scheduler's process",
    "imported": "the scheduler has imported the engine, and with it torch",
    "acknowledged": "the scheduler puts its acknowledgement into the start-up queue",
    "resolved": "the API server has found the folder with the model's files",
    "running": "the scheduler's process runs its first line of ours, and begins to record",
}
"""Eight moments of every start-up, by the names that the exercise uses, and not in their order."""

_TOO_EARLY = {
    "serving": "what would a client get that came now? See the end of `_launch`",
    "taken": "who has to put it there?",
    "weights": "which code reads them, and does that process have it yet?",
    "spawned": "what is each child told in its setup, and is it known by then?",
    "imported": "which process imports it, and does it exist yet?",
    "acknowledged": "it promises that requests can come; look at what has to be there for that",
    "running": "who starts it?",
}
"""For each moment the question that puts it into its place. Nothing comes before `resolved`."""


@check
def check_start_up(order: Any, events: Sequence[JsonEvent]) -> str:
    """Whether the names of `START_UP` stand in the order in which the recording has these moments.

    Args:
        order: the names, in a list or separated by blanks.
        events: of a recording with a start-up.
    """
    names = order.split() if isinstance(order, str) else order
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise NotYet(f"a list of names is expected, and this is {order!r}")
    if unknown := [name for name in names if name not in START_UP]:
        raise NotYet(f"there is no moment called {unknown[0]!r}; the names are: {', '.join(START_UP)}")
    if missing := [name for name in START_UP if names.count(name) != 1]:
        raise NotYet(f"each name stands once, and {missing[0]!r} stands {names.count(missing[0])} times")
    moments = start_up_moments(events)
    for place, name in enumerate(names):
        if any(moments[later] < moments[name] for later in names[place + 1 :]):
            raise NotYet(f"{name!r} comes too early: {_TOO_EARLY[name]}")
    first_ns = moments[names[0]]
    seconds = ", ".join(f"{name} {(moments[name] - first_ns) / 1e9:.2f} s" for name in names)
    return f"each needs what stands before it. In the recording: {seconds}"


def start_up_moments(events: Sequence[JsonEvent]) -> dict[str, int]:
    """When each moment of `START_UP` came, in nanoseconds."""

    def at(kind: str, **fields: str) -> JsonEvent:
        return next(
            event for event in events if event["kind"] == kind and all(event[key] == fields[key] for key in fields)
        )

    ready = at("process.ready", name="scheduler-0")
    return {
        "resolved": at("process.phase", phase="resolve_model")["ns"],
        "spawned": at("process.spawned", name="scheduler-0")["ns"],
        "running": at("process.started", name="scheduler-0")["ns"],
        "imported": at("process.phase", phase="import_engine")["ns"],
        "weights": at("process.phase", phase="load_weights")["ns"],
        "acknowledged": ready["acked_ns"],
        "taken": ready["ns"],
        "serving": at("process.serving")["ns"],
    }


_ANSWERS = ("killed_by", "last_event", "num_unwritten")


@check
def check_autopsy(function: Callable[[list[JsonEvent]], Mapping[str, Any]], events: Sequence[JsonEvent]) -> str:
    """Whether a function finds out by which signal a process died, how far its recording goes, and what isn't in it.

    It is run twice: on the events, and on those of another death, so that a copied answer isn't enough.
    """
    truth = autopsy(events)
    answer = _answers(attempt(function, list(events)))
    for examine in (_check_signal, _check_last_event, _check_unwritten):
        examine(answer, truth, events)
    other = another_death(events)
    if _answers(attempt(function, other)) != autopsy(other):
        raise NotYet("that is right for this recording, but not for another one: compute all of it from `events`")
    lost = _lost(events)
    return (
        f"{lost['name']} was ended by {truth['killed_by']}; its recording stops at event {truth['last_event']}, and "
        f"others hold {truth['num_unwritten']} messages from it that it never wrote down"
    )


def autopsy(events: Sequence[JsonEvent]) -> dict[str, Any]:
    """What `check_autopsy` asks for, of the first process that was lost."""
    lost = _lost(events)
    return {
        "process": lost["name"],
        "killed_by": signal.Signals(-lost["exit_code"]).name,
        "last_event": max(event["event"] for event in events if event["process"] == lost["name"]),
        "num_unwritten": len(_received_from(events, lost["name"]) - _sent_by(events, lost["name"])),
    }


def another_death(events: Sequence[JsonEvent]) -> list[JsonEvent]:
    """The same events, but the lost process was ended by SIGTERM, and its recording stops two messages earlier."""
    name = _lost(events)["name"]
    sent = [event["event"] for event in events if event["process"] == name and event["kind"] == "msg.sent"]
    stop = sent[-2] if len(sent) > 1 else 2  # its first event tells who it is, and stays
    return [
        event | {"exit_code": -signal.SIGTERM} if event["kind"] == "process.lost" else event
        for event in events
        if event["process"] != name or event["event"] < stop
    ]


def _lost(events: Sequence[JsonEvent]) -> JsonEvent:
    return next(event for event in events if event["kind"] == "process.lost")


MessageKey = tuple[str, int]


def _sent_by(events: Sequence[JsonEvent], name: str) -> set[MessageKey]:
    sent = [event for event in events if event["kind"] == "msg.sent" and event["process"] == name]
    return {(event["channel"], event["number"]) for event in sent}


def _received_from(events: Sequence[JsonEvent], name: str) -> set[MessageKey]:
    received = [event for event in events if event["kind"] == "msg.received" and event["sender"] == name]
    return {(event["channel"], event["number"]) for event in received}


def _answers(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, Mapping) or set(answer) != {"process", *_ANSWERS}:
        raise NotYet(f"leave the form of what the function returns: a dict of process, {', '.join(_ANSWERS)}")
    blank = [name for name in _ANSWERS if is_blank(answer[name])]
    if len(blank) == len(_ANSWERS):
        raise NotAttempted
    if blank:
        raise NotYet(f"{', '.join(name for name in _ANSWERS if name not in blank)}: seen; go on with {blank[0]}")
    return dict(answer)


def _check_signal(answer: Mapping[str, Any], truth: Mapping[str, Any], events: Sequence[JsonEvent]) -> None:
    given, number = answer["killed_by"], _lost(events)["exit_code"]
    if given == truth["killed_by"]:
        return
    if given in (number, -number):
        raise NotYet("killed_by: the right number; `signal.Signals` turns a signal's number into its name")
    raise NotYet(f"killed_by: {given!r} isn't it; the exit code of process.lost is minus a signal's number")


def _check_last_event(answer: Mapping[str, Any], truth: Mapping[str, Any], events: Sequence[JsonEvent]) -> None:
    given, lost = answer["last_event"], _lost(events)
    if given == truth["last_event"]:
        return
    if isinstance(given, Mapping):
        raise NotYet("last_event: the number of the event is asked for, which stands in its field `event`")
    if given == lost["event"] and lost["process"] != lost["name"]:
        raise NotYet(f"last_event: that is the event in which {lost['process']} tells of the death; the dead tell none")
    raise NotYet(f"last_event: {given!r} isn't it; look at the events whose `process` is the dead one")


def _check_unwritten(answer: Mapping[str, Any], truth: Mapping[str, Any], events: Sequence[JsonEvent]) -> None:
    given, name = answer["num_unwritten"], _lost(events)["name"]
    if given == truth["num_unwritten"]:
        return
    to_it = [event for event in events if event["kind"] == "msg.sent" and event["channel"] == name]
    if given == len(_received_from(events, name)):
        raise NotYet("num_unwritten: these are all that others received from it; some of them it wrote down itself")
    if given == len(to_it) or given == len(to_it) - len(_sent_by(events, name)):
        raise NotYet("num_unwritten: you count messages to the process; asked for are those from it")
    raise NotYet(
        f"num_unwritten: {given!r} isn't it; compare what it wrote as sent with what others received, it being `sender`"
    )


def excerpt(function: Callable[..., Any], first: str, last: str) -> str:
    """A part of a function's source: from the first line that holds `first` to the first one after it with `last`.

    Raises:
        ValueError: the source has no such lines, so the lesson that shows them has to be changed.
    """
    lines = inspect.getsource(function).splitlines()
    start = next((place for place, line in enumerate(lines) if first in line), None)
    stop = next(
        (place for place, line in enumerate(lines) if start is not None and place >= start and last in line), None
    )
    if start is None or stop is None:
        raise ValueError(f"{function.__qualname__} has no lines from {first!r} to {last!r}")
    return textwrap.dedent("\n".join(lines[start : stop + 1]))


def show_processes(server: LocalServer) -> str:
    """What `learnsgl ps` prints of this server, without others that may run on the same machine.

    Raises:
        ValueError: it doesn't run.
    """
    found = [one for one in find_servers() if one.facts.url == server.url]
    if not found:
        raise ValueError(f"{server!r} doesn't run, or its processes can't be seen from here")
    view = look_at(found[0])
    if server.trace_folder is not None:
        view.trace_folder = str(Path(server.trace_folder))  # as it was given, and not from the root
    return show_server(view)
