"""The pages of KV cache as a map of signs, one for each page or for as many as needed to fit: who holds what.

`show.py` prints it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learnsgl.replay.scheduler_view import PageUse, SchedulerView
from learnsgl.terminal import Style

MAX_LINES = 4
SIGNS = {PageUse.REQUEST: "#", PageUse.TREE: "t", PageUse.SHARED: "s", PageUse.FREE: "."}
WORDS = {
    PageUse.REQUEST: "one request",
    PageUse.TREE: "the tree",
    PageUse.SHARED: "both, or several",
    PageUse.FREE: "free",
}
STYLES = {
    PageUse.REQUEST: Style.CYAN, PageUse.TREE: Style.YELLOW, PageUse.SHARED: Style.MAGENTA, PageUse.FREE: Style.DIM,
}  # fmt: skip
Piece = tuple[str, Style]
Uses = npt.NDArray[np.uint8]


def page_lines(view: SchedulerView, width: int) -> list[list[Piece]]:
    """The map and its legend, as lines of pieces.

    Free pages behind the last one in use are counted and not drawn. Where one sign stands for several pages it tells
    what most of them are; of equal numbers, what comes first in the legend.
    """
    uses = view.page_uses
    if uses is None or not len(uses):
        return []
    used = np.flatnonzero(uses)
    num_drawn = int(used[-1]) + 1 if len(used) else 0
    per_sign = max(1, -(-num_drawn // (max(1, width) * MAX_LINES)))
    signs = _signs(uses[:num_drawn], per_sign)
    lines = [_pieces(signs[start : start + width]) for start in range(0, len(signs), max(1, width))]
    each = "a sign is a page" if per_sign == 1 else f"a sign is {per_sign:,} pages: what most of them are"
    behind = f"; pages {num_drawn:,} to {len(uses) - 1:,} are free" if num_drawn < len(uses) else ""
    return [*lines, _legend(uses), [(f"{each}{behind}" if num_drawn else "all are free", Style.DIM)]]


def _signs(uses: Uses, per_sign: int) -> list[PageUse]:
    num_signs = -(-len(uses) // per_sign)
    padded = np.full(num_signs * per_sign, -1, dtype=np.int64)
    padded[: len(uses)] = uses
    cells = padded.reshape(num_signs, per_sign)
    order = list(SIGNS)
    counts = np.stack([(cells == use).sum(axis=1) for use in order])
    return [order[place] for place in counts.argmax(axis=0).tolist()]


def _pieces(row: list[PageUse]) -> list[Piece]:
    """Signs of one line, those that look the same joined."""
    pieces: list[Piece] = []
    for use in row:
        if pieces and pieces[-1][1] is STYLES[use]:
            pieces[-1] = pieces[-1][0] + SIGNS[use], STYLES[use]
        else:
            pieces.append((SIGNS[use], STYLES[use]))
    return pieces


def _legend(uses: Uses) -> list[Piece]:
    pieces: list[Piece] = []
    for use, sign in SIGNS.items():
        pieces += [(sign, STYLES[use]), (f" {WORDS[use]}: {int((uses == use).sum()):,}   ", Style.PLAIN)]
    return pieces
