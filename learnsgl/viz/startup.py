"""The start-up as a Gantt chart: what each process did until it was ready, and how long the parent waited for its word.

The lesson on processes draws it. Every level records these events; `read_startup` is what `startup_gantt` draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learnsgl.errors import TraceError
from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, finish, key, new_figure, subtitle
from learnsgl.viz.theme import LIGHT, Theme, ink_on
from learnsgl.viz.words import duration

WAITING_PHASE = "start_workers"
"""The parent's phase in which it does nothing but wait for its children."""
_BAR_HEIGHT = 0.56
_CHAR_SHARE = 0.0085
_BASE_INCHES = 1.35
_LANE_INCHES = 0.56


@dataclass(frozen=True)
class Phase:
    """A part of a process's start-up.

    Attributes:
        name: such as `load_weights`.
        start_ns, end_ns: when.
    """

    name: str
    start_ns: int
    end_ns: int

    @property
    def waits(self) -> bool:
        """Whether the process only waits for others in it."""
        return self.name == WAITING_PHASE


@dataclass
class Starting:
    """One process on its way.

    Attributes:
        process: its name.
        phases: in the order in which they began.
        spawned_ns: when the parent started it; `None` for the parent.
        started_ns: its first event.
        acked_ns, ready_ns: when it said that it is ready, and when the parent took that from the queue.
        lost_ns: when the parent found it dead; `None` where it lived.
    """

    process: str
    phases: list[Phase] = field(default_factory=list)
    spawned_ns: int | None = None
    started_ns: int | None = None
    acked_ns: int | None = None
    ready_ns: int | None = None
    lost_ns: int | None = None


@dataclass(frozen=True)
class Startup:
    """The start-up of a server.

    Attributes:
        origin_ns: its first moment.
        end_ns: when the HTTP socket listened, or the last thing known of the start-up.
        serving_ns: when the HTTP socket listened; `None` where it never did.
        processes: in the order in which they were started.
    """

    origin_ns: int
    end_ns: int
    serving_ns: int | None
    processes: tuple[Starting, ...]

    @property
    def slowest(self) -> Starting | None:
        """The child whose word came last."""
        acked = [one for one in self.processes if one.acked_ns is not None]
        return max(acked, key=lambda one: one.acked_ns or 0, default=None)


def startup_gantt(trace: Recording, *, theme: Theme = LIGHT) -> tuple[Figure, Startup]:
    """Draw the start-up of a server.

    Args:
        trace: the recording, of any level.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the moments that it shows.

    Raises:
        TraceError: the trace holds no start-up.
    """
    trace = trace_of(trace)
    data = read_startup(trace)
    figure = new_figure(theme, _BASE_INCHES + _LANE_INCHES * len(data.processes))
    axes = figure.add_subplot()
    _draw(axes, data, theme)
    key(axes, theme, [(theme.work, "works"), (theme.waiting, "waits for the others")])
    finish(figure, theme, _title(data), subtitle=subtitle(trace), notes=_notes(data))
    return figure, data


def read_startup(trace: Trace) -> Startup:
    """Read the start-up of a recording.

    Raises:
        TraceError: there is none in it.
    """
    found: dict[str, Starting] = {}
    serving_ns = None
    for entry in trace.events():
        event = entry.event
        match event:
            case events.ProcessStarted():
                found.setdefault(entry.process, Starting(entry.process)).started_ns = event.ns
            case events.ProcessSpawned():
                found.setdefault(event.name, Starting(event.name)).spawned_ns = event.ns
            case events.ProcessPhase():
                one = found.setdefault(entry.process, Starting(entry.process))
                one.phases.append(Phase(event.phase, event.start_ns, event.ns))
            case events.ProcessReady():
                one = found.setdefault(event.name, Starting(event.name))
                one.acked_ns, one.ready_ns = event.acked_ns, event.ns
            case events.ProcessLost():
                found.setdefault(event.name, Starting(event.name)).lost_ns = event.ns
            case events.ProcessServing():
                serving_ns = event.ns
                break
            case events.SchedStep():
                break
    for one in found.values():
        one.phases.sort(key=lambda phase: phase.start_ns)
    if not any(one.phases for one in found.values()):
        raise TraceError(
            f"{trace.path}: no process recorded a phase of its start-up; it never began, or the limit on size has "
            "removed the first files"
        )
    processes = sorted(found.values(), key=_first_ns)
    last = max(_last_ns(one) for one in processes)
    return Startup(min(map(_first_ns, processes)), max(last, serving_ns or 0), serving_ns, tuple(processes))


def _first_ns(one: Starting) -> int:
    known = [one.spawned_ns, one.started_ns, *(phase.start_ns for phase in one.phases)]
    return min(ns for ns in known if ns is not None) if any(ns is not None for ns in known) else one.ready_ns or 0


def _last_ns(one: Starting) -> int:
    known = [one.spawned_ns, one.started_ns, one.ready_ns, one.lost_ns, *(phase.end_ns for phase in one.phases)]
    return max(ns for ns in known if ns is not None)


def _draw(axes: Axes, data: Startup, theme: Theme) -> None:
    theme.style_axes(axes)
    span = max(data.end_ns - data.origin_ns, 1)
    for place, one in enumerate(data.processes):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=theme.band, lw=0, zorder=0)
        _draw_process(axes, place, one, data, theme)
    axes.set_yticks(range(len(data.processes)), [one.process for one in data.processes])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(data.processes) - 0.5, -0.5)
    axes.set_xlim(-0.005 * span / 1e9, 1.09 * span / 1e9)
    axes.set_xlabel("seconds since the server was started")
    if data.serving_ns is not None:
        parent = next((place for place, one in enumerate(data.processes) if one.spawned_ns is None), 0)
        _mark(axes, (data.serving_ns - data.origin_ns) / 1e9, parent, "listens", theme)


def _mark(axes: Axes, at: float, place: int, text: str, theme: Theme) -> None:
    axes.plot(at, place, "|", ms=19, mew=1.8, color=theme.exposed, zorder=4)
    axes.annotate(
        text, (at, place), (5, 0), textcoords="offset points", va="center", fontsize=SMALL_SIZE, color=theme.ink
    )


def _draw_process(axes: Axes, place: int, one: Starting, data: Startup, theme: Theme) -> None:
    for phase in one.phases:
        start, length = (phase.start_ns - data.origin_ns) / 1e9, (phase.end_ns - phase.start_ns) / 1e9
        colour = theme.waiting if phase.waits else theme.work
        axes.barh(
            place, length, left=start, height=_BAR_HEIGHT, color=colour, edgecolor=theme.background, linewidth=0.8,
            zorder=2,
        )  # fmt: skip
    _name_phases(axes, place, one, data, theme)
    if one.acked_ns is not None:
        _mark(axes, (one.acked_ns - data.origin_ns) / 1e9, place, "is ready", theme)
    if one.lost_ns is not None:
        axes.annotate(
            "× died", ((one.lost_ns - data.origin_ns) / 1e9, place), (3, 0), textcoords="offset points", va="center",
            fontsize=SMALL_SIZE, color=theme.exposed, fontweight="bold",
        )  # fmt: skip


def _name_phases(axes: Axes, place: int, one: Starting, data: Startup, theme: Theme) -> None:
    """Into each bar, or below it where it is too narrow and the name before leaves room."""
    char = _CHAR_SHARE * max(data.end_ns - data.origin_ns, 1) / 1e9
    taken = 0.0
    for phase in one.phases:
        start, end = (phase.start_ns - data.origin_ns) / 1e9, (phase.end_ns - data.origin_ns) / 1e9
        text = f"{phase.name} {duration(phase.end_ns - phase.start_ns)}"
        y, colour = float(place), ink_on(theme.waiting if phase.waits else theme.work)
        if len(text) * char > end - start:
            y, colour = place + 0.41, theme.ink
        half = len(text) * char / 2
        middle = min((start + end) / 2, (data.end_ns - data.origin_ns) / 1e9 - half)
        if y > place:
            if middle - half < taken:
                continue
            taken = middle + half
        axes.text(
            middle, y, text, ha="center", va="center", fontsize=SMALL_SIZE, color=colour, zorder=3, parse_math=False
        )


def _title(data: Startup) -> str:
    if data.serving_ns is None:
        return f"The start-up never ended: after {duration(data.end_ns - data.origin_ns)} the server did not listen"
    total = f"The server listens after {duration(data.serving_ns - data.origin_ns)}"
    if data.slowest is None or not data.slowest.phases:
        return total
    longest = max(data.slowest.phases, key=lambda phase: phase.end_ns - phase.start_ns)
    return (
        f"{total}; the last to be ready is {data.slowest.process} "
        f"({longest.name} {duration(longest.end_ns - longest.start_ns)})"
    )


def _notes(data: Startup) -> list[str]:
    notes = [f"{one.process} died before it was ready." for one in data.processes if one.lost_ns is not None]
    silent = [one.process for one in data.processes if not one.phases and one.lost_ns is None]
    if silent:
        notes.append(f"Nothing is recorded of: {', '.join(silent)}.")
    return notes
