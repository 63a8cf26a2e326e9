"""Pages of KV cache as numbers: which are free, and how many hold each of the others.

A holder is a running request whose row of the page table names the page, or the prefix cache. The scheduler
allocates through it, the prefix cache takes and gives back references; a page is free when nobody holds it. The
memory itself belongs to the executor.
"""

from __future__ import annotations

import numpy as np

from learnsgl.core import Int32Array


class PageAllocator:
    """Hands out free pages and counts references.

    Invariant: every page is either in the free stack with no reference, or out of it with at least one.

    Source: reference-counted KV blocks as in Kwon et al., "Efficient Memory Management for Large Language Model
    Serving with PagedAttention" (2023), section 4.3.

    Attributes:
        num_pages: pages there are; they are numbered from 0.
        refs: int32 [num_pages]; holders of each page.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.refs: Int32Array = np.zeros(num_pages, dtype=np.int32)
        # A stack, the next page on top: low numbers go first, and a page that was just freed is used again soon.
        self._stack: Int32Array = np.arange(num_pages - 1, -1, -1, dtype=np.int32)
        self._num_free = num_pages

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return self._num_free

    def allocate(self, count: int) -> Int32Array:
        """Take `count` free pages, each with one reference: int32 [count].

        Raises:
            ValueError: fewer are free. The scheduler's promises make this impossible; it is a bug.
        """
        if count > self._num_free:
            raise ValueError(f"{count} pages were asked for and {self._num_free} are free")
        pages: Int32Array = self._stack[self._num_free - count : self._num_free][::-1].copy()
        self._num_free -= count
        self.refs[pages] = 1
        return pages

    def share(self, pages: Int32Array) -> None:
        """Add a holder to pages that have one already; int32 [n], no page twice."""
        self.refs[pages] += 1

    def release(self, pages: Int32Array) -> Int32Array:
        """Take a holder away; int32 [n], no page twice. Returns the pages that are free now, in the same order."""
        self.refs[pages] -= 1
        freed: Int32Array = pages[self.refs[pages] == 0]
        self._stack[self._num_free : self._num_free + len(freed)] = freed[::-1]
        self._num_free += len(freed)
        return freed

    def free_pages(self) -> Int32Array:
        """The free pages, the next to be given first: int32 [num_free]."""
        return self._stack[: self._num_free][::-1].copy()
