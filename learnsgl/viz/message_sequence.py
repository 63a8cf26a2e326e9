"""A sequence diagram: a lifeline a process, an arrow a message, and boxes for what is done between them.

The lessons on processes and messages draw it for one request. Lines stand in the order of their moments and not to
scale, since a message takes microseconds and a step milliseconds; the moments stand at the left.
"""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.patheffects import withStroke

from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sequence_data import Line, LineKind, MessageSequence, read_message_sequence
from learnsgl.viz.sheet import SMALL_SIZE, TEXT_SIZE, WIDTH_INCHES, finish, new_figure, subtitle
from learnsgl.viz.spans import Span
from learnsgl.viz.theme import LIGHT, Theme, ink_on
from learnsgl.viz.words import count, duration

MAX_LINES = 36
"""With more of them, those in the middle are left out."""
_SHOWN_LAST = 10
_LINE_INCHES = 0.24
_CHAR_INCHES = 0.062
_BASE_INCHES = 1.15


class _Gap(NamedTuple):
    """Lines that are left out.

    Attributes:
        num_lines: how many.
        span_ns: from the first one's beginning to the last one's end.
    """

    num_lines: int
    span_ns: int


def message_sequence(
    trace: Recording, *, uid: int | None = None, window_ns: Span | None = None, theme: Theme = LIGHT
) -> tuple[Figure, MessageSequence]:
    """Draw what passes between the processes.

    Args:
        trace: the recording, of level full for the messages.
        uid: for this request; by default for the first one, or with a window for all.
        window_ns: only what begins between these moments, on `time.monotonic_ns`.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the lines of the diagram; also those that the figure has no room for.

    Raises:
        TraceError: the recording has no such request, or nothing in that window.
    """
    trace = trace_of(trace)
    data = read_message_sequence(trace, uid=uid, window_ns=window_ns)
    shown = _shortened(data.lines)
    figure = new_figure(theme, _BASE_INCHES + _LINE_INCHES * (len(shown) + 1))
    axes = figure.add_subplot()
    _draw(axes, data, shown, theme)
    num_messages = sum(line.kind in (LineKind.MESSAGE, LineKind.LOST) for line in data.lines)
    about = f"request {data.uid}" if data.uid is not None else "this window"
    title = f"What the processes say to each other for {about}: {count(num_messages, 'message')}"
    num_lost = sum(line.kind is LineKind.LOST for line in data.lines)
    if num_lost:
        title += f", {num_lost:,} whose arrival is not recorded"
    notes = [
        "In the order of time, from the top; not to scale. At the left, milliseconds since the first line.",
        *data.notes,
    ]
    finish(figure, theme, title, subtitle=subtitle(trace), notes=notes)
    return figure, data


def _shortened(lines: tuple[Line, ...]) -> list[Line | _Gap]:
    if len(lines) <= MAX_LINES:
        return list(lines)
    first, left_out, last = (
        lines[: MAX_LINES - _SHOWN_LAST],
        lines[MAX_LINES - _SHOWN_LAST : -_SHOWN_LAST],
        lines[-_SHOWN_LAST:],
    )
    return [*first, _Gap(len(left_out), left_out[-1].end_ns - left_out[0].start_ns), *last]


def _draw(axes: Axes, data: MessageSequence, shown: list[Line | _Gap], theme: Theme) -> None:
    theme.style_axes(axes)
    places = {name: place for place, name in enumerate(data.lifelines)}
    axes.set_xlim(-0.95, len(places) - 0.4)
    bottom = len(shown) - 0.3
    for name, place in places.items():
        axes.plot([place, place], [-0.6, bottom], color=theme.waiting, lw=1.2, zorder=1)
        axes.text(
            place, -1.0, name, ha="center", va="center", fontsize=TEXT_SIZE + 0.5, fontweight="bold", color=theme.ink,
            parse_math=False,
        )  # fmt: skip
    for row, line in enumerate(shown):
        if isinstance(line, _Gap):
            text = f"⋮  {count(line.num_lines, 'line')} of {duration(line.span_ns)} left out  ⋮"
            axes.axhspan(row - 0.4, row + 0.4, color=theme.band, lw=0, zorder=2)
            middle = (len(places) - 1) / 2
            axes.text(middle, row, text, ha="center", va="center", fontsize=TEXT_SIZE, color=theme.muted, zorder=3)
            continue
        moment = (line.start_ns - data.origin_ns) / 1e6
        axes.text(-0.5, row, f"{moment:,.2f}", ha="right", va="center", fontsize=SMALL_SIZE, color=theme.muted)
        colour = theme.request(line.uids[0]) if len(line.uids) == 1 else theme.arrow
        if line.kind is LineKind.DEATH:
            axes.plot(places[line.source], row, "x", ms=10, mew=2.5, color=theme.exposed, zorder=4)
            axes.text(places[line.source] + 0.1, row, line.text, va="center", fontsize=SMALL_SIZE, color=theme.ink)
        elif line.kind is LineKind.WORK:
            _draw_work(axes, places[line.source], row, line, colour, theme)
        else:
            _draw_message(axes, (places[line.source], places[line.target]), row, line, colour, theme)
    axes.text(-0.5, -1.0, "ms", ha="right", va="center", fontsize=SMALL_SIZE, color=theme.muted)
    axes.set_ylim(bottom + 0.1, -1.5)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_work(axes: Axes, place: int, row: int, line: Line, colour: str, theme: Theme) -> None:
    """A box as wide as its text."""
    text = f"{line.text}, {duration(line.end_ns - line.start_ns)}"
    left, right = axes.get_xlim()
    half = (len(text) * _CHAR_INCHES + 0.12) / 2 * (right - left) / WIDTH_INCHES
    place_x = min(float(place), right - half)
    box = FancyBboxPatch(
        (place_x - half, row - 0.36), 2 * half, 0.72, boxstyle="round,pad=0,rounding_size=0.06", facecolor=colour,
        edgecolor="none", zorder=3,
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(
        place_x, row, text, ha="center", va="center", fontsize=SMALL_SIZE - 0.5, color=ink_on(colour), zorder=4,
        parse_math=False,
    )  # fmt: skip


def _draw_message(axes: Axes, ends: tuple[int, int], row: int, line: Line, colour: str, theme: Theme) -> None:
    """An arrow with its text above the middle; one whose arrival is not recorded ends half-way, in a cross."""
    start, stop = ends
    is_lost = line.kind is LineKind.LOST
    tip = start + 0.55 * (stop - start) if is_lost else stop
    axes.annotate(
        "", (tip, row + 0.22), (start, row + 0.22), zorder=3,
        arrowprops={
            "arrowstyle": "-" if is_lost else "-|>", "color": colour, "lw": 1.3, "shrinkA": 0, "shrinkB": 0,
            "mutation_scale": 9, "linestyle": "dashed" if is_lost else "solid",
        },
    )  # fmt: skip
    if is_lost:
        axes.plot(tip, row + 0.22, "x", ms=7, mew=2, color=theme.exposed, zorder=4)
    took = line.end_ns - line.start_ns
    text = line.text + (f", {duration(took)}" if took else "") + (" (arrival not recorded)" if is_lost else "")
    axes.text(
        (start + stop) / 2, row - 0.12, text, ha="center", va="center", fontsize=SMALL_SIZE, color=theme.ink, zorder=5,
        path_effects=[withStroke(linewidth=2.5, foreground=theme.background)], parse_math=False,
    )  # fmt: skip
