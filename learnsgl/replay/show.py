"""A `ServerState` as text for a terminal: processes, device, queue, running requests, pages, tree and messages.

`commands.py` prints what `show` makes. Everything is cut to the terminal's width, and long lists to what fits on a
screen; `--json` has all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from learnsgl.core import ReqKey, Stage
from learnsgl.replay.activity import DeviceStage, ProcessActivity, Status, StepInFlight
from learnsgl.replay.messages import MessageInFlight
from learnsgl.replay.page_map import page_lines
from learnsgl.replay.scheduler_view import RunningRequest, SchedulerView, WaitingRequest
from learnsgl.replay.server_state import ServerState
from learnsgl.replay.tree_listing import tree_lines
from learnsgl.terminal import Style, harmless, styled

MAX_WAITING = 10
MAX_RUNNING = 20
MAX_MESSAGES = 10
BAR_WIDTH = 20
_STATUS_STYLES = {
    Status.WORKING: Style.GREEN,
    Status.STARTING: Style.CYAN,
    Status.WAITING: Style.YELLOW,
    Status.KILLED: Style.RED,
    Status.SILENT: Style.RED,
}
_STAGE_STYLES = {Stage.PREFILL: Style.CYAN, Stage.DECODE: Style.GREEN, Stage.FINISHED: Style.DIM}


class Cell(NamedTuple):
    """A piece of a line: its text, and how it looks."""

    text: str
    style: Style = Style.PLAIN


Line = Sequence[Cell]


def show(state: ServerState, *, width: int, color: bool) -> str:
    """The state in lines of at most `width` characters, colours not counted.

    Args:
        state: the server at a moment.
        width: of the terminal.
        color: whether to add colours.
    """
    lines: list[Line] = [_moment(state), *_titled("processes", _processes(state))]
    steps = [_step(step) for step in state.steps_in_flight] or [[Cell("no step in flight", Style.DIM)]]
    last = (
        f"step {state.scheduler.step} is the last that was scheduled"
        if state.scheduler and state.scheduler.step
        else ""
    )
    lines += _titled("device", steps, last)
    for view in state.schedulers:
        lines += _scheduler(view, width)
    lines += _titled(*_messages(state))
    return "\n".join(_render(line, width, color) for line in lines)


def _render(line: Line, width: int, color: bool) -> str:
    """A line, cut where the terminal ends."""
    shown, left = [], width
    for place, cell in enumerate(line):
        is_last = place == len(line) - 1
        text = harmless(cell.text).rstrip() if is_last else harmless(cell.text)
        if len(text) > left:
            text = text[: max(0, left - 1)] + "…"[:left]
        left -= len(text)
        shown.append(styled(text, cell.style, color=color))
    return "".join(shown)


def _titled(title: str, lines: Sequence[Line], note: str = "") -> list[Line]:
    head = [Cell(title, Style.BOLD), Cell(f"  {note}" if note else "")]
    return [[Cell("")], head, *([Cell("  "), *line] for line in lines)]


def aligned(rows: Sequence[Sequence[Cell]], right: Sequence[int] = ()) -> list[Line]:
    """Rows as aligned columns; those in `right` are aligned to the right."""
    widths = [max(len(cell.text) for cell in column) for column in zip(*rows, strict=True)]
    return [
        [
            Cell((cell.text.rjust(width) if place in right else cell.text.ljust(width)) + "  ", cell.style)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]


# ---------------------------------------------------------------- the moment, processes, the device


def _moment(state: ServerState) -> Line:
    moment = state.moment
    newest = "before the first event"
    if moment.process is not None:
        newest = f"after {moment.process}:{moment.number} ({moment.kind or 'of an unknown kind'})"
    level = f"level {state.level}" if state.level else "of an unknown level"
    return [Cell(f"{moment.time_s:.6f} s", Style.BOLD), Cell(f"  {newest}; {level}")]


def _processes(state: ServerState) -> list[Line]:
    rows = [_process(state, activity) for activity in state.processes]
    return aligned(rows) if rows else [[Cell("none recorded anything")]]


def _process(state: ServerState, activity: ProcessActivity) -> list[Cell]:
    since = "" if activity.since_ns is None else f"for {duration(state.moment.ns - activity.since_ns)}"
    style = _STATUS_STYLES.get(activity.status, Style.DIM)
    return [Cell(activity.name), Cell(activity.status.value, style), Cell(activity.doing), Cell(since, Style.DIM)]


def duration(ns: int) -> str:
    """A length of time in a unit that suits it."""
    if ns < 1_000_000:
        return f"{ns / 1e3:.1f} µs"
    return f"{ns / 1e6:.1f} ms" if ns < 1_000_000_000 else f"{ns / 1e9:.2f} s"


def _step(step: StepInFlight) -> Line:
    num_decode = len(step.uids) - step.num_prefill
    style = Style.GREEN if step.stage in (DeviceStage.FORWARD, DeviceStage.SAMPLING) else Style.DIM
    what = f"{count(step.num_tokens, 'token')}: {count(step.num_prefill, 'prompt chunk')}, {num_decode:,} decoding"
    return [Cell(f"step {step.step}  "), Cell(f"{step.stage.value}  ", style), Cell(what)]


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 node`, `1,106 nodes`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


# ---------------------------------------------------------------- a scheduler


def _scheduler(view: SchedulerView, width: int) -> list[Line]:
    if not view.is_known:
        why = "its state isn't known yet: the first events are missing, and no whole keyframe came since"
        return _titled(view.name, [[Cell(why, Style.YELLOW)]])
    lines = _titled(f"queue of {view.name}", _queue(view.queue), f"{len(view.queue):,} waiting")
    note = f"{len(view.running):,} of {count(view.num_rows, 'row')}"
    lines += _titled("running", _running(view.running), note)
    if not view.has_pages:
        return lines + _titled("pages and tree", [[Cell("not recorded at level steps", Style.DIM)]])
    pages = [[Cell(text, style) for text, style in line] for line in page_lines(view, width - 2)]
    size = "" if view.page_size is None else f" of {count(view.page_size, 'token')}"
    lines += _titled("pages", pages, f"{view.num_pages:,}{size}")
    nodes = view.tree or {}
    held = sum(len(node.pages) for node in nodes.values())
    locked = sum(node.lock > 0 for node in nodes.values())
    note = f"{count(len(nodes) - 1, 'node')}, {locked:,} locked, {count(held, 'page')}"
    return lines + _titled("tree", [[Cell(text, style)] for text, style in tree_lines(nodes)], note)


def _queue(queue: Sequence[WaitingRequest]) -> list[Line]:
    if not queue:
        return []
    rows = [[Cell(name, Style.DIM) for name in ("request", "prompt", "limit")]]
    for waiting in queue[:MAX_WAITING]:
        rows.append([Cell(name_of(waiting.key)), Cell(f"{waiting.prompt_len:,}"), Cell(f"{waiting.limit_len:,}")])
    return [*aligned(rows, right=range(3)), *_more(len(queue) - MAX_WAITING)]


def _running(running: Sequence[RunningRequest]) -> list[Line]:
    if not running:
        return []
    heads = ("request", "row", "prompt", "cached", "computed", "scheduled", "output", "limit", "stage", "progress")
    rows = [[Cell(name, Style.DIM) for name in heads]]
    for request in running[:MAX_RUNNING]:
        numbers = (
            request.row, request.prompt_len, request.cached_len, request.committed_len, request.scheduled_len,
            request.num_output, request.limit_len,
        )  # fmt: skip
        style = _STAGE_STYLES[request.stage]
        stage, bar = Cell(request.stage.name.lower(), style), Cell(_bar(request.progress), style)
        rows.append([Cell(name_of(request.key)), *(Cell(f"{number:,}") for number in numbers), stage, bar])
    return [*aligned(rows, right=range(8)), *_more(len(running) - MAX_RUNNING)]


def _bar(progress: float) -> str:
    done = int(progress * BAR_WIDTH)
    return f"{'█' * done}{'░' * (BAR_WIDTH - done)} {progress:4.0%}"


def name_of(key: ReqKey) -> str:
    """A request's id, with its choice where that isn't the first."""
    return f"{key.uid}.{key.choice}" if key.choice else str(key.uid)


def _more(number: int) -> list[Line]:
    return [[Cell(f"and {number:,} more", Style.DIM)]] if number > 0 else []


# ---------------------------------------------------------------- messages


def _messages(state: ServerState) -> tuple[str, list[Line], str]:
    messages = state.messages
    if messages is None:
        return "messages", [[Cell("not recorded at level steps", Style.DIM)]], ""
    rows = [_message(state, message) for message in messages[:MAX_MESSAGES]]
    return "messages", [*aligned(rows), *_more(len(messages) - MAX_MESSAGES)], f"{len(messages):,} on their way"


def _message(state: ServerState, message: MessageInFlight) -> list[Cell]:
    uids = message.uids or ()
    about = ", ".join(map(str, uids[:4])) + (f" and {len(uids) - 4:,} more" if len(uids) > 4 else "")
    noun = "request" if len(uids) == 1 else "requests"
    return [
        Cell(f"{message.sender} → {message.channel} #{message.number}"),
        Cell(message.kinds or "its sending isn't recorded", Style.CYAN),
        Cell(f"{noun} {about}" if uids else ""),
        Cell(f"for {duration(state.moment.ns - message.sent_ns)}", Style.DIM),
        Cell("" if message.receiver else "never received", Style.RED),
    ]
