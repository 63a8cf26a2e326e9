"""Who holds each KV page: nobody, only the prefix cache, one request, or several.

`page_map.py` and the animation colour pages by it, `radix_growth.py` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

from learnsgl.trace.digest import RowField
from learnsgl.trace.state import SchedulerState
from learnsgl.viz.theme import REQUEST_COLOURS, Theme


class Owner(IntEnum):
    """Kinds of holders."""

    FREE = 0
    """Nobody."""
    CACHED = 1
    """Only the tree: evictable unless a request holds a node below."""
    REQUEST = 2
    """One running request, whether or not the tree holds the page too."""
    SHARED = 3
    """Two or more running requests."""


class Owners(NamedTuple):
    """The holders of all pages at one moment.

    Attributes:
        kinds: `Owner` of each page, uint8 [num_pages].
        uids: the request that holds the page alone, int64 [num_pages]; 0 where no single one does.
    """

    kinds: npt.NDArray[np.uint8]
    uids: npt.NDArray[np.int64]


def owners_of(state: SchedulerState) -> Owners:
    """The holders of all pages."""
    kinds = np.zeros(state.num_pages, dtype=np.uint8)
    uids = np.zeros(state.num_pages, dtype=np.int64)
    for node in state.nodes.values():
        kinds[node.pages] = Owner.CACHED
    for row in state.used_rows():
        pages = state.pages_of(row)
        held = kinds[pages] >= Owner.REQUEST
        uids[pages] = np.where(held, 0, state.rows[RowField.UID, row])
        kinds[pages] = np.where(held, Owner.SHARED, Owner.REQUEST)
    return Owners(kinds, uids)


def num_held(owners: Owners) -> int:
    """Pages that somebody holds."""
    return int(np.count_nonzero(owners.kinds))


def colours_of(kinds: npt.NDArray[np.uint8], uids: npt.NDArray[np.int64], theme: Theme) -> npt.NDArray[np.float64]:
    """Colours of pages, float64 [..., 3], from kinds and uids of any one shape."""
    palette = np.array([to_rgb(colour) for colour in REQUEST_COLOURS])
    fixed = np.array([to_rgb(theme.free), to_rgb(theme.cached), (0.0, 0.0, 0.0), to_rgb(theme.shared)])
    by_request: npt.NDArray[np.float64] = palette[(uids - 1) % len(palette)]
    return np.where((kinds == Owner.REQUEST)[..., None], by_request, fixed[kinds])


def key_of(uids: Sequence[int], theme: Theme) -> list[tuple[str, str]]:
    """(colour, name) of every kind, and of the requests where these are few enough to name."""
    if len(uids) <= len(REQUEST_COLOURS):
        requests = [(theme.request(uid), f"{'' if place else 'request '}{uid}") for place, uid in enumerate(uids)]
    else:
        requests = [(theme.request(uid), "a request" if place == 2 else "") for place, uid in enumerate(uids[:3])]
    others = [(theme.shared, "several requests"), (theme.cached, "only the cache"), (theme.free, "free")]
    return [*requests, *others]
