"""The life of one request as eight bars: how long it was where, from its arrival until its pages went back.

The lessons draw it, and print the numbers that come with it. `trace/life.py` says which events each stage lies between.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learnsgl.errors import TraceError
from learnsgl.trace.life import STAGES, RequestLife, Stage
from learnsgl.trace.lives import requests
from learnsgl.viz.recording import Recording, missing_notes, trace_of
from learnsgl.viz.sheet import finish, new_figure, subtitle
from learnsgl.viz.theme import LIGHT, Theme
from learnsgl.viz.words import duration, percent

HEIGHT_INCHES = 4.0
BAR_HEIGHT = 0.56
PROCESSES = (
    ("API server", 0, 1),
    ("tokenizer", 1, 2),
    ("scheduler and engine", 2, 5),
    ("detokenizer", 5, 6),
    ("API server", 6, 7),
    ("API server and scheduler", 7, 8),
)
"""Who has the request in which stages: name, first stage, one past the last."""


def life(trace: Recording, *, uid: int | None = None, theme: Theme = LIGHT) -> tuple[Figure, RequestLife]:
    """Draw the life of a request.

    Args:
        trace: the recording, of level full for all stages.
        uid: the request; by default the first one that has a stage at all.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the life that it shows.

    Raises:
        TraceError: the trace has no such request, or none of its stages.
        TraceFormatError: the trace is broken.
    """
    trace = trace_of(trace)
    lives = [one for one in requests(trace) if uid in (None, one.key.uid)]
    shown = next((one for one in lives if any(one.stages)), None)
    if shown is None:
        known = ", ".join(str(one.key.uid) for one in requests(trace)) or "none"
        wanted = "no request" if uid is None else f"not request {uid}"
        raise TraceError(f"{trace.path}: {wanted} has a stage to draw; requests in the trace: {known}")
    figure = new_figure(theme, HEIGHT_INCHES)
    axes = figure.add_subplot()
    _draw_processes(axes, theme)
    _draw_stages(axes, shown, theme)
    drawn = [stage for stage in shown.stages if stage is not None]
    longest = max(drawn, key=lambda stage: stage.end_ns - stage.start_ns)
    total_ns = drawn[-1].end_ns - drawn[0].start_ns
    share = percent(longest.end_ns - longest.start_ns, total_ns)
    title = f"The life of request {shown.key.uid}: {duration(total_ns)}, and {share} of it is being {longest.name}"
    finish(figure, theme, title, subtitle=subtitle(trace), notes=missing_notes(trace))
    return figure, shown


def _draw_processes(axes: Axes, theme: Theme) -> None:
    """A band for each process, every other one shaded."""
    theme.style_axes(axes)
    for place, (name, first, stop) in enumerate(PROCESSES):
        if place % 2 == 0:
            axes.axhspan(first - 0.5, stop - 0.5, color=theme.band, zorder=0)
        axes.text(
            0.995, (first + stop - 1) / 2, name, transform=axes.get_yaxis_transform(), ha="right", va="center",
            fontsize=7.5, color=theme.muted,
        )  # fmt: skip


def _draw_stages(axes: Axes, shown: RequestLife, theme: Theme) -> None:
    stages = shown.stages
    origin_ns = min(stage.start_ns for stage in stages if stage is not None)
    end_ms = max((stage.end_ns - origin_ns) / 1e6 for stage in stages if stage is not None)
    for place, stage in enumerate(stages):
        if stage is None:
            axes.text(0, place, " not in the trace", va="center", fontsize=8, color=theme.muted)
        else:
            _draw_stage(axes, place, stage, origin_ns, end_ms, theme.request(shown.key.uid), theme)
    axes.set_yticks(range(len(STAGES)), [f"{number} {name}" for number, name in enumerate(STAGES, start=1)])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(STAGES) - 0.5, -0.5)
    axes.set_xlim(-0.01 * end_ms, 1.42 * end_ms)  # room for the names at the right
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= end_ms])
    axes.set_xlabel(f"milliseconds since request {shown.key.uid} came in")


def _draw_stage(axes: Axes, place: int, stage: Stage, origin_ns: int, end_ms: float, colour: str, theme: Theme) -> None:
    start_ms, length_ms = (stage.start_ns - origin_ns) / 1e6, stage.seconds * 1e3
    # The outline keeps a stage of microseconds visible.
    axes.barh(place, length_ms, left=start_ms, height=BAR_HEIGHT, color=colour, edgecolor=colour, linewidth=1.2)
    words = duration(stage.end_ns - stage.start_ns)
    axes.text(start_ms + length_ms + 0.008 * end_ms, place, words, va="center", fontsize=8, color=theme.ink)
