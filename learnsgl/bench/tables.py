"""A table of results, as aligned columns for a terminal and as Markdown for `docs/benchmarks.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from learnsgl.bench.stats import Spread


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: what names it in `docs/benchmarks.md`, such as `offline`; unique among all benchmarks.
        heads: names of the columns, with units.
        rows: as many cells each.
        note: a sentence below it; empty for none.
    """

    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        """For a terminal."""
        lines = [self.heads, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.heads))]
        shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*(line.rstrip() for line in shown), *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """For a page."""
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        return "\n".join([*shown, *(["", self.note] if self.note else [])])


def judged(measured: Spread, *, at_most: float | None = None, at_least: float | None = None) -> str:
    """`verdict` of the median, with a word where the measurement is too unsure to tell."""
    words = {verdict(value, at_most=at_most, at_least=at_least) for value in (measured.low, measured.high)}
    said = verdict(measured.median, at_most=at_most, at_least=at_least)
    return said if len(words) == 1 else f"{said}, unsure"


def verdict(value: float, *, at_most: float | None = None, at_least: float | None = None) -> str:
    """`met`, or `missed`, of an aim."""
    holds = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    return "met" if holds else "missed"
