"""The engine's memory: what the weights take, how much became KV pages, what is left, and what a token costs.

Lessons on memory draw it; the numbers are those of `engine.ready`, which every level records.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from learnsgl.errors import TraceError
from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sheet import TEXT_SIZE, finish, new_figure, panel_title, subtitle
from learnsgl.viz.theme import LIGHT, Theme, ink_on
from learnsgl.viz.words import bytes_on_axis, count, num_bytes, percent

HEIGHT_INCHES = 3.6
PURPOSES = {
    "weights": ("weights",), "workspace": ("workspace",), "CUDA graphs": ("graphs",),
    "tables, libraries": ("rotary", "buffers", "libraries"), "KV pages": ("kv_pages",),
}  # fmt: skip
"""Parts of what was free, and the entries of `engine.ready`'s memory of which each is the sum."""
_MIN_INSIDE_SHARE = 0.12


@dataclass(frozen=True)
class MemoryBudget:
    """What the memory was used for.

    Attributes:
        available_bytes: free before the model was loaded; `None` where the trace doesn't tell.
        parts: (name, bytes) of what was taken from it, in the order of the figure.
        num_pages: KV pages.
        page_size: tokens a page.
        page_bytes: size of a page; `None` where the trace doesn't tell.
        max_model_len: most tokens of one request.
        most_pages_held: most pages that were held after any step; `None` where no step ran.
    """

    available_bytes: int | None
    parts: tuple[tuple[str, int], ...]
    num_pages: int
    page_size: int
    page_bytes: int | None
    max_model_len: int
    most_pages_held: int | None

    @property
    def left_bytes(self) -> int | None:
        """Free memory that was left to the rest of the machine."""
        return None if self.available_bytes is None else self.available_bytes - sum(size for _, size in self.parts)

    @property
    def token_bytes(self) -> float | None:
        """KV of one token."""
        return None if self.page_bytes is None else self.page_bytes / self.page_size

    @property
    def capacity_tokens(self) -> int:
        """Tokens whose KV fits into the pages."""
        return self.num_pages * self.page_size


def memory_budget(trace: Recording, *, theme: Theme = LIGHT) -> tuple[Figure, MemoryBudget]:
    """Draw what the engine's memory was used for, and how much of the KV pages requests held.

    Args:
        trace: the recording, of any level.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the numbers that it shows.

    Raises:
        TraceError: the engine was never ready in the trace.
    """
    trace = trace_of(trace)
    data = read_memory_budget(trace)
    figure = new_figure(theme, HEIGHT_INCHES)
    memory, pages = figure.subplots(2, 1)
    _draw_memory(memory, data, theme)
    _draw_pages(pages, data, theme)
    cost = "" if data.token_bytes is None else f"a token's KV costs {num_bytes(data.token_bytes)}, and "
    title = f"The memory budget: {cost}there are pages for {data.capacity_tokens:,} tokens"
    finish(figure, theme, title, subtitle=subtitle(trace), notes=_notes(data))
    return figure, data


def read_memory_budget(trace: Trace) -> MemoryBudget:
    """Read the budget of the first engine that was ready.

    Raises:
        TraceError: none was.
    """
    ready: events.EngineReady | None = None
    most: int | None = None
    for entry in trace.events():
        if isinstance(entry.event, events.EngineReady):
            ready = ready or entry.event
        elif isinstance(entry.event, events.SchedStep) and ready is not None:
            most = max(most or 0, ready.num_pages - entry.event.num_free_pages)
    if ready is None:
        raise TraceError(
            f"{trace.path}: engine.ready is not in this recording, so its memory is not known; the start-up failed, or "
            "the limit on size has removed the first file"
        )
    sums = {name: sum(ready.memory.get(one, 0) for one in purposes) for name, purposes in PURPOSES.items()}
    parts = tuple((name, size) for name, size in sums.items() if size)
    return MemoryBudget(
        ready.memory.get("available_before"), parts, ready.num_pages, ready.page_size, ready.memory.get("page"),
        ready.max_model_len, most,
    )  # fmt: skip


def _draw_memory(axes: Axes, data: MemoryBudget, theme: Theme) -> None:
    parts = [(name, size, theme.series(place)) for place, (name, size) in enumerate(data.parts)]
    if data.left_bytes is not None and data.left_bytes > 0:
        parts.append(("left free", data.left_bytes, theme.free))
    if not parts:
        axes.text(0, 0, "the engine did not say what its memory was used for", color=theme.muted, fontsize=TEXT_SIZE)
    whole = "memory that was free before the model was loaded" if data.available_bytes else "memory by purpose"
    panel_title(axes, theme, f"{whole[0].upper()}{whole[1:]}: {num_bytes(sum(size for _, size, _ in parts))}")
    _draw_bar(axes, theme, [(name, size, num_bytes(size), colour) for name, size, colour in parts])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_on_axis(value)))


def _draw_pages(axes: Axes, data: MemoryBudget, theme: Theme) -> None:
    held = data.most_pages_held or 0
    panel_title(axes, theme, f"KV pages: {data.num_pages:,} of {count(data.page_size, 'token')} each")
    parts = [
        ("held at the fullest step", held, f"{held:,}", theme.request(1)),
        ("never needed", data.num_pages - held, f"{data.num_pages - held:,}", theme.free),
    ]
    _draw_bar(axes, theme, [part for part in parts if part[1] > 0])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draw_bar(axes: Axes, theme: Theme, parts: list[tuple[str, int, str, str]]) -> None:
    """One stacked bar: (name, size, size in words, colour). What is too narrow for its name has it above the bar."""
    theme.style_axes(axes)
    total = sum(size for _, size, _, _ in parts) or 1
    num_narrow = sum(size / total < _MIN_INSIDE_SHARE for _, size, _, _ in parts)
    at, height = 0.0, 0.62 + 0.3 * num_narrow
    for name, size, words, colour in parts:
        axes.barh(0, size, left=at, height=0.9, color=colour, edgecolor=theme.background, linewidth=0.8)
        middle = at + size / 2
        if size / total >= _MIN_INSIDE_SHARE:
            text = f"{name}\n{words} ({percent(size, total)})"
            axes.text(
                middle, 0, text, ha="center", va="center", fontsize=TEXT_SIZE, color=ink_on(colour), linespacing=1.3
            )
        else:  # the further left, the higher, so that no line crosses a name
            height -= 0.3
            axes.plot([middle, middle], [0.3, height], color=theme.muted, lw=0.8)
            side = "left" if middle < 0.75 * total else "right"
            axes.annotate(
                f"{name} {words} ({percent(size, total)})", (middle, height), (4 if side == "left" else -4, 0),
                textcoords="offset points", ha=side, va="center", fontsize=TEXT_SIZE, color=theme.ink,
            )  # fmt: skip
        at += size
    axes.set_xlim(0, total)
    axes.set_ylim(-0.5, 0.5 + 0.3 * num_narrow)
    axes.set_yticks([])


def _notes(data: MemoryBudget) -> list[str]:
    notes = []
    if data.token_bytes is not None:
        longest = data.token_bytes * data.max_model_len
        notes.append(
            f"One request may have {data.max_model_len:,} tokens; its KV would take {num_bytes(longest)}, so "
            f"{data.capacity_tokens / data.max_model_len:,.1f} such requests fit at once."
        )
    if data.most_pages_held is None:
        notes.append("No step ran in this recording, so no page was ever held.")
    return notes
