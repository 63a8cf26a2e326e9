"""The bars of a timeline: thousands of rectangles drawn in one go, and a step's bar divided among its requests.

`painter.py` collects what it draws here.
"""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from learnsgl.replay.history import Run

Point = tuple[float, float]


class Bars:
    """Rectangles that are added to a panel in one go: thousands are drawn as fast as one."""

    def __init__(self) -> None:
        self._corners: list[list[Point]] = []
        self._faces: list[str] = []
        self._edges: list[str] = []

    def add(self, start: float, end: float, inner: Point, face: str, edge: str) -> None:
        """Add one from `start` to `end`; `inner` is its upper edge and its height."""
        top, height = inner
        self._corners.append([(start, top), (end, top), (end, top + height), (start, top + height)])
        self._faces.append(face)
        self._edges.append(edge)

    def add_to(self, axes: Axes, *, zorder: float) -> None:
        """Draw all of them."""
        axes.add_collection(
            PolyCollection(
                self._corners, facecolors=self._faces, edgecolors=self._edges, linewidths=0.5, zorder=zorder
            ),
            autolim=False,
        )


def split(runs: tuple[Run, ...], top: float, height: float) -> Iterator[tuple[Run, Point]]:
    """Divide a bar among the requests of a step, by their tokens."""
    total = sum(run.num_tokens for run in runs)
    for run in runs:
        part = height * run.num_tokens / total
        yield run, (top, part)
        top += part
