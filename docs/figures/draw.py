"""Draws the examples of docs/figures.md: `python docs/figures/draw.py`, or the ones that the command line names.

Each is drawn from a recording in traces/, light and dark, at the size at which a page shows it.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from learnsgl.trace.reader import Trace
from learnsgl.viz.animation import animation
from learnsgl.viz.batch_composition import batch_composition
from learnsgl.viz.latency import latency_distributions
from learnsgl.viz.ledger_bars import ledger_bars
from learnsgl.viz.life import life
from learnsgl.viz.memory_budget import memory_budget
from learnsgl.viz.message_sequence import message_sequence
from learnsgl.viz.overlap_lanes import overlap_lanes
from learnsgl.viz.page_map import page_map
from learnsgl.viz.radix_growth import radix_growth
from learnsgl.viz.radix_tree import radix_tree
from learnsgl.viz.startup import startup_gantt
from learnsgl.viz.theme import DARK, LIGHT, Theme
from learnsgl.viz.timeline import timeline

FOLDER = Path(__file__).parent
TRACES = FOLDER.parents[1] / "traces"
DPI = 100
NUM_COLOURS = 256
"""A figure has few colours; an image with a palette is half as large."""

Draw = Callable[..., tuple[Figure, Any]]
EXAMPLES: dict[str, tuple[Draw, tuple[str, ...], dict[str, Any]]] = {
    "timeline": (timeline, ("chat_concurrent",), {"highlight": 4}),
    "life": (life, ("first_request",), {}),
    "message_sequence": (message_sequence, ("worker_killed",), {}),
    "batch_composition": (batch_composition, ("mixed_policy",), {}),
    "overlap_lanes": (overlap_lanes, ("overlap_off",), {}),
    "page_map": (page_map, ("shared_prefix",), {}),
    "radix_tree": (radix_tree, ("shared_prefix",), {}),
    "radix_growth": (radix_growth, ("shared_prefix",), {}),
    "ledger_bars": (ledger_bars, ("chat_concurrent",), {}),
    "latency_distributions": (latency_distributions, ("pair_chunk_64", "pair_chunk_512"), {}),
    "startup_gantt": (startup_gantt, ("engine_start",), {}),
    "memory_budget": (memory_budget, ("first_request",), {}),
}
"""Each figure's function, the recordings that it is drawn from, and its options."""


def opened(names: tuple[str, ...]) -> list[Trace]:
    """Recordings of traces/, by name."""
    return [Trace.open(TRACES / f"{name}.trace.zip") for name in names]


def draw(name: str, theme: Theme) -> Path:
    """Draw one example into the folder of this file."""
    function, recordings, options = EXAMPLES[name]
    figure, _ = function(*opened(recordings), theme=theme, **options)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=DPI, facecolor=theme.background)
    file = FOLDER / f"{name}_{theme.name}.png"
    image = Image.open(picture).convert("RGB")
    image.quantize(NUM_COLOURS, kmeans=1, dither=Image.Dither.NONE).save(file, optimize=True)
    return file


def main() -> None:
    """Draw the examples that the command line names, or all of them and the animation."""
    parser = argparse.ArgumentParser(description="Draw the examples of docs/figures.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {', '.join(EXAMPLES)}, animation")
    names = parser.parse_args().names or [*EXAMPLES, "animation"]
    if unknown := [name for name in names if name not in EXAMPLES and name != "animation"]:
        parser.error(f"there is no example {unknown[0]!r}; there are: {', '.join(EXAMPLES)}, animation")
    for name in names:
        if name == "animation":
            files = [animation(opened(("shared_prefix",))[0])[0].save(FOLDER / "animation.html")]
        else:
            files = [draw(name, theme) for theme in (LIGHT, DARK)]
        for file in files:
            print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
