"""The prefix cache that remembers nothing: `--cache-type naive`, to compare with."""

from __future__ import annotations

import numpy as np

from learnsgl.core import Int32Array
from learnsgl.kvcache.base import ROOT, PrefixMatch
from learnsgl.trace.state import NodeFacts


class NaiveCache:
    """A `PrefixCache` in which no prompt is ever known."""

    shares = False
    num_evictable = 0
    clock = 0

    def find(self, token_ids: Int32Array) -> PrefixMatch:
        """Nothing is known."""
        return PrefixMatch(ROOT, 0, 0, 0)

    def take(self, match: PrefixMatch) -> tuple[int, Int32Array]:
        """Nothing is held."""
        return ROOT, np.zeros(0, dtype=np.int32)

    def extend(self, row: int, node: int, token_ids: Int32Array, pages: Int32Array, num_spare: int) -> int:
        """Nothing is remembered."""
        return node

    def finish(self, row: int, node: int, token_ids: Int32Array, pages: Int32Array) -> None:
        """Nothing is remembered."""

    def evict(self, num_pages: int) -> None:
        """There is nothing to evict."""
        if num_pages > 0:
            raise ValueError(f"{num_pages} pages should be evicted, and the naive cache holds none")

    def node_ids(self) -> list[int]:
        """There is no tree."""
        return []

    def facts(self, node: int) -> NodeFacts | None:
        """There is no tree."""
        return None
