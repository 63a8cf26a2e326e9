"""An animation of KV pages and radix tree, step by step, as one HTML page that needs nothing from anywhere.

Notebooks show it by itself (in a frame of its own, so that neither can disturb the other), and `save` writes it to a
file. Its script and style are `animation.js` and `animation.css` beside this file; its colours are those of `theme.py`.
"""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from learnsgl.errors import FolderError
from learnsgl.viz.animation_data import FIRST_UID, AnimationData, Frame, read_animation
from learnsgl.viz.recording import Recording, trace_of
from learnsgl.viz.sheet import subtitle
from learnsgl.viz.theme import DARK, LIGHT, REQUEST_COLOURS, Theme, ink_on
from learnsgl.viz.words import count

HEIGHT_PIXELS = 560
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{colours}
{style}
</style>
</head>
<body>
<main id="animation">
<h1>{title}</h1>
<p class="muted">{subtitle}</p>
<div class="controls" role="group" aria-label="Playing">
<button type="button" id="first">|◀<span class="hidden">First step</span></button>
<button type="button" id="back">◀<span class="hidden">One step back</span></button>
<button type="button" id="play">Play</button>
<button type="button" id="forward">▶<span class="hidden">One step forward</span></button>
<label class="slider">Step <input type="range" id="slider" min="0" max="{last}" value="0" step="1"></label>
<label>Speed <select id="speed"><option value="1000">1 step a second</option>
<option value="300" selected>3 steps a second</option><option value="100">10 steps a second</option></select></label>
</div>
<p id="caption" aria-live="polite"></p>
<div class="panels">
<section aria-labelledby="pages-title"><h2 id="pages-title">KV pages</h2>
<canvas id="pages" role="img" aria-label="KV pages"></canvas><div id="key" class="key"></div></section>
<section aria-labelledby="tree-title"><h2 id="tree-title">Prefix cache</h2>
<div id="tree" class="tree" tabindex="0" role="img" aria-label="The radix tree"></div></section>
</div>
<p class="muted">{notes}</p>
</main>
<script type="application/json" id="data">{data}</script>
<script>
{script}
</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Animation:
    """A page that plays a recording.

    Attributes:
        html: the whole page.
    """

    html: str

    def save(self, path: Path | str) -> Path:
        """Write the page to a file.

        Raises:
            FolderError: the file can't be written.
        """
        try:
            Path(path).write_text(self.html, encoding="utf-8")
        except OSError as error:
            raise FolderError(f"{path}: the animation can't be written there: {error.strerror}") from error
        return Path(path)

    def _repr_html_(self) -> str:
        """For notebooks: a frame that may run the page's own script, and do nothing else."""
        return (
            f'<iframe title="KV pages and prefix cache, step by step" sandbox="allow-scripts" width="100%" '
            f'height="{HEIGHT_PIXELS}" style="border:0" srcdoc="{html.escape(self.html)}"></iframe>'
        )


def animation(
    trace: Recording, *, steps: tuple[int, int] | None = None, theme: Theme | None = None
) -> tuple[Animation, AnimationData]:
    """Make an animation of KV pages and radix tree.

    Args:
        trace: the recording, of level full.
        steps: first and last step to show; by default all.
        theme: `theme.LIGHT` or `theme.DARK`; by default what the reader's browser prefers.

    Returns:
        The animation (a notebook shows it by itself), and the frames that it shows.

    Raises:
        TraceError: no step ran, none of those asked for, or pages were not recorded.
    """
    trace = trace_of(trace)
    data = read_animation(trace, steps=steps)
    first, last = data.frames[0].step, data.frames[-1].step
    title = f"KV pages and prefix cache, step {first:,} to {last:,}"
    notes = [
        f"A square is a page of {count(data.page_size, 'token')}, a bar is a node of the tree, and a way from the left "
        "to the right is a prefix. Outlined: changed in this step, or a new node.", *data.notes,
    ]  # fmt: skip
    page = _PAGE.format(
        title=html.escape(title), subtitle=html.escape(subtitle(trace)), notes=html.escape(" ".join(notes)),
        last=len(data.frames) - 1, colours=_colours(theme), style=_asset("animation.css"),
        script=_asset("animation.js"), data=_json(data),
    )  # fmt: skip
    return Animation(page), data


def _asset(name: str) -> str:
    return files("learnsgl.viz").joinpath(name).read_text(encoding="utf-8")


def _colours(theme: Theme | None) -> str:
    """The themes as CSS variables; of two, the reader's browser chooses."""
    if theme is not None:
        return f":root {{ color-scheme: {theme.name}; {_variables(theme)} }}"
    return (
        f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}"
    )


def _variables(theme: Theme) -> str:
    named = {
        "background": theme.background, "band": theme.band, "ink": theme.ink, "muted": theme.muted,
        "waiting": theme.waiting, "free": theme.free, "cached": theme.cached, "shared": theme.shared,
        "mark": theme.mark, "changed": theme.exposed,
    }  # fmt: skip
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())


def _json(data: AnimationData) -> str:
    """The frames, short, and harmless within a script element."""
    content = {
        "cells": data.num_cells, "pagesPerCell": data.pages_per_cell, "pageSize": data.page_size,
        "firstUid": FIRST_UID, "requests": REQUEST_COLOURS, "inks": [ink_on(colour) for colour in REQUEST_COLOURS],
        "frames": [_frame(frame) for frame in data.frames],
    }  # fmt: skip
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _frame(frame: Frame) -> dict[str, object]:
    """A frame without what is empty in it."""
    return {name: value for name, value in asdict(frame).items() if value not in ((), 0) or name in ("step", "ms")}
