"""What a prefix cache is to the scheduler: find a prompt's known prefix, hold it, extend it, let it go, evict.

`radix.py` shares prefixes, `naive.py` shares nothing; the scheduler can't tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from learnsgl.core import Int32Array
from learnsgl.trace.state import NodeFacts

ROOT = 0
"""Id of the root, which stands for the empty prefix: it has no pages and is never locked or evicted."""


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """How far a prompt is known, found without changing anything.

    Attributes:
        node: deepest node that the prompt reaches.
        pages_in_node: how many of that node's pages match; fewer than it has means that taking it will split it.
        num_pages: pages of the whole match.
        num_evictable: of these, pages that could be evicted now, and no longer once the match is taken.
    """

    node: int
    pages_in_node: int
    num_pages: int
    num_evictable: int


class PrefixCache(Protocol):
    """Remembers the KV pages of prefixes. All prefixes are whole pages."""

    @property
    def shares(self) -> bool:
        """Whether waiting for another request's prefix can ever help."""
        ...

    @property
    def num_evictable(self) -> int:
        """Pages that only the cache holds: `evict` can free them."""
        ...

    def find(self, token_ids: Int32Array) -> PrefixMatch:
        """The longest known prefix of `token_ids`, int32 [n], without changing anything."""
        ...

    def take(self, match: PrefixMatch) -> tuple[int, Int32Array]:
        """Hold what `find` has just found.

        Returns:
            The node that the request now holds locked, with the path above it, and the pages, int32 [num_pages], in
            the order of their tokens. The pages' references are the caller's to take.
        """
        ...

    def extend(self, row: int, node: int, token_ids: Int32Array, pages: Int32Array, num_spare: int) -> int:
        """Remember the computed prefix of a request that is still running.

        Args:
            row: its table row, for the trace.
            node: node that it holds.
            token_ids: int32 [n]; its tokens whose KV is computed.
            pages: int32; its pages, at least as many as whole pages in `token_ids`.
            num_spare: pages that are free or evictable and promised to nobody.

        Returns:
            The node that it holds from now on: the same one where nothing was added.
        """
        ...

    def finish(self, row: int, node: int, token_ids: Int32Array, pages: Int32Array) -> None:
        """Remember what a request computed, and let go of what it held. Arguments as for `extend`.

        The caller still has its own references on the pages and gives them back next.
        """
        ...

    def evict(self, num_pages: int) -> None:
        """Forget the least recently used prefixes that nobody holds until `num_pages` more pages are free.

        Raises:
            ValueError: fewer are evictable.
        """
        ...

    @property
    def clock(self) -> int:
        """Logical time: counts uses."""
        ...

    def node_ids(self) -> list[int]:
        """Every node but the root, ascending."""
        ...

    def facts(self, node: int) -> NodeFacts | None:
        """A node as it is now, read from the live tree; `None` where it is gone."""
        ...
