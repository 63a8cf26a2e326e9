"""The sheet that every figure is drawn on: its size, a title that says what is to be seen, what ran, and notes below.

The figures of `viz/` call `new_figure` first and `finish` last. No figure touches pyplot, so none is kept alive by it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from learnsgl.trace.reader import Trace
from learnsgl.viz.theme import Theme

WIDTH_INCHES = 9.0
DPI = 200
"""Twice what a page shows, so that it stays sharp; the sizes of the text are meant for 100 dots an inch."""
TEXT_SIZE = 8.0
SMALL_SIZE = 7.5
_TITLE_SIZE = 10.5
_TITLE_CHARS = 96
_NOTE_CHARS = 165
_LINE_INCHES = 0.175
_TITLE_LINE_INCHES = 0.2
_EDGE_INCHES = 0.1


def new_figure(theme: Theme, height: float) -> Figure:
    """An empty figure of a page's width.

    Args:
        theme: colours.
        height: in inches.
    """
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor=theme.background, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, theme: Theme, title: str, *, subtitle: str = "", notes: Sequence[str] = ()) -> None:
    """Write the title, what ran and the notes, and leave the rest of the sheet to the panels.

    Args:
        figure: with its panels drawn.
        theme: colours.
        title: what is to be seen, a sentence.
        subtitle: what ran.
        notes: what was left out or is missing, and how to read what isn't obvious.
    """
    height = figure.get_figheight()
    title_lines = textwrap.wrap(title, _TITLE_CHARS)
    subtitle_lines = textwrap.wrap(subtitle, _NOTE_CHARS)
    note_lines = [line for note in notes for line in textwrap.wrap(note, _NOTE_CHARS)]
    at = _EDGE_INCHES
    for line in title_lines:
        _write(figure, line, 1 - at / height, _TITLE_SIZE, theme.ink, weight="bold")
        at += _TITLE_LINE_INCHES
    for line in subtitle_lines:
        _write(figure, line, 1 - at / height, TEXT_SIZE, theme.muted)
        at += _LINE_INCHES
    above = at + 0.06
    for place, line in enumerate(reversed(note_lines)):
        y = (_EDGE_INCHES * 0.6 + place * _LINE_INCHES) / height
        _write(figure, line, y, SMALL_SIZE, theme.muted, va="bottom")
    below = (0.08 + _LINE_INCHES * len(note_lines)) if note_lines else 0.04
    for legend in figure.legends:  # above the notes; the layout leaves room only for legends that nobody placed
        legend.set_bbox_to_anchor((0.0, below / height, 1.0, 1.0), transform=figure.transFigure)
        below += legend.get_window_extent().height / figure.dpi + 0.1
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0.0, below / height, 1.0, 1 - (above + below) / height))


def _write(figure: Figure, line: str, y: float, size: float, colour: str, *, weight: str = "normal", va: str = "top"
           ) -> None:  # fmt: skip
    figure.text(0.012, y, line, fontsize=size, color=colour, fontweight=weight, ha="left", va=va, parse_math=False)


def subtitle(trace: Trace) -> str:
    """What ran, as far as the manifest tells: model, device, dtype, policy."""
    engine, config = trace.manifest.get("engine") or {}, trace.manifest.get("config") or {}
    scheduler = config.get("scheduler") or {}
    facts = [engine.get("model"), engine.get("device"), engine.get("dtype"), scheduler.get("policy")]
    if "overlap" in scheduler:
        facts.append("overlap" if scheduler["overlap"] else "no overlap")
    return " · ".join(str(fact) for fact in facts if fact)


def panel_title(axes: Axes, theme: Theme, text: str) -> None:
    """What one of several panels shows."""
    axes.set_title(text, loc="left", fontsize=9, color=theme.ink, fontweight="bold", parse_math=False)


def key(axes: Axes, theme: Theme, entries: Sequence[tuple[str, str]]) -> None:
    """Name colours in one line above a panel, at its right.

    Args:
        axes: the panel.
        theme: colours of the text.
        entries: (colour, name) pairs.
    """
    handles = [Patch(facecolor=colour, edgecolor="none", label=name) for colour, name in entries]
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles), frameon=False,
        fontsize=SMALL_SIZE, labelcolor=theme.ink, handlelength=1.0, handleheight=0.9, handletextpad=0.4,
        columnspacing=1.2, borderaxespad=0.2, borderpad=0.1,
    )  # fmt: skip


def whole_numbers(axes: Axes, *, x: bool = False, y: bool = False, most: int = 8) -> None:
    """Ticks at whole numbers only, with thousands separated."""
    for axis, wanted in ((axes.xaxis, x), (axes.yaxis, y)):
        if wanted:
            axis.set_major_locator(MaxNLocator(most, integer=True))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def grid(axes: Axes, theme: Theme, axis: str = "y") -> None:
    """Fine lines behind what is drawn, along one axis."""
    axes.grid(axis=axis, color=theme.free, lw=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
