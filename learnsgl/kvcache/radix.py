"""The radix cache: a tree of token prefixes, whose nodes own the KV pages of their tokens.

The scheduler matches each prompt against it at admission, adds prefixes as they are computed, and evicts the least
recently used leaves when pages run out. Time is a counter that moves with each use, so that the same requests
always evict the same nodes.

Source: RadixAttention, Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs" (2024),
section 3.
"""

from __future__ import annotations

import heapq

import numpy as np

from learnsgl.core import Int32Array
from learnsgl.kvcache.allocator import PageAllocator
from learnsgl.kvcache.base import ROOT, PrefixMatch
from learnsgl.trace.journal import Journal
from learnsgl.trace.state import NodeFacts


class RadixNode:
    """An edge of the tree and the node at its end: a run of tokens, and the pages that hold their KV.

    Attributes:
        id: number of the node; ids are never used again.
        parent: the node above; `None` only for the root.
        token_ids: int32 [len(pages) * page_size].
        pages: int32; page i holds tokens i * page_size up to (i + 1) * page_size.
        children: by the bytes of their first page's tokens.
        lock: requests that hold this node or one below it.
        last_use: logical time.
        digest: keyed digest of the tokens, for the trace.
        end: pages from the root to the end of this node; a split doesn't change it.
    """

    __slots__ = ("children", "digest", "end", "id", "last_use", "lock", "pages", "parent", "token_ids")

    def __init__(self, node_id: int, parent: RadixNode | None, token_ids: Int32Array, pages: Int32Array) -> None:
        self.id = node_id
        self.parent = parent
        self.token_ids = token_ids
        self.pages = pages
        self.children: dict[bytes, RadixNode] = {}
        self.lock = 0
        self.last_use = 0
        self.digest = 0
        self.end: int = len(pages) + (parent.end if parent is not None else 0)

    @property
    def is_evictable_leaf(self) -> bool:
        """Whether nobody holds it and nothing hangs below it."""
        return self.lock == 0 and not self.children and self.parent is not None

    def facts(self) -> NodeFacts:
        """The node as the trace knows it."""
        assert self.parent is not None
        return NodeFacts(self.id, self.parent.id, self.lock, self.last_use, self.digest, self.pages)


class RadixCache:
    """A `PrefixCache` that shares prefixes between requests.

    Invariants: a locked node's ancestors are locked; siblings differ in their first page; the tree holds one
    reference on each of its pages, and an unlocked node's pages have no other.
    """

    shares = True

    def __init__(self, page_size: int, allocator: PageAllocator, journal: Journal) -> None:
        self._page_size = page_size
        self._allocator = allocator
        self._journal = journal
        empty = np.zeros(0, dtype=np.int32)
        self._root = RadixNode(ROOT, None, empty, empty)
        self._nodes: dict[int, RadixNode] = {ROOT: self._root}
        self._next_id = 1
        self._clock = 0
        self._num_evictable = 0
        self._heap: list[tuple[int, int]] = []
        """(last use, id) of leaves that could be evicted; an entry that is no longer true is skipped when popped."""

    @property
    def num_evictable(self) -> int:
        """Pages in unlocked nodes."""
        return self._num_evictable

    @property
    def num_nodes(self) -> int:
        """Nodes, the root not counted."""
        return len(self._nodes) - 1

    @property
    def clock(self) -> int:
        """Logical time."""
        return self._clock

    def node_ids(self) -> list[int]:
        """Every node but the root; ids only grow, so the dict's order is theirs."""
        return list(self._nodes)[1:]

    def facts(self, node: int) -> NodeFacts | None:
        """A node as it is now, or `None` where it is gone."""
        found = self._nodes.get(node)
        return None if found is None else found.facts()

    # ------------------------------------------------------------ match

    def find(self, token_ids: Int32Array) -> PrefixMatch:
        """Walk down from the root as far as the prompt agrees."""
        node, pages_in_node, num_pages = self._walk(self._root, token_ids, 0)
        num_evictable = 0
        above: RadixNode | None = node
        while above is not None and above.lock == 0:
            num_evictable += pages_in_node if above is node else len(above.pages)
            above = above.parent
        return PrefixMatch(node.id, pages_in_node, num_pages, num_evictable)

    def _walk(self, node: RadixNode, token_ids: Int32Array, num_pages: int) -> tuple[RadixNode, int, int]:
        """Go down from `node`, which ends after `num_pages` pages of `token_ids`.

        Returns:
            The last node reached, how many of its pages agree, and pages of `token_ids` that agree in all.
        """
        size = self._page_size
        pages_in_node = len(node.pages)
        while True:
            rest = token_ids[num_pages * size :]
            child = node.children.get(rest[:size].tobytes()) if len(rest) >= size else None
            if child is None:
                return node, pages_in_node, num_pages
            pages_in_node = common_prefix(child.token_ids, rest) // size
            num_pages += pages_in_node
            node = child
            if pages_in_node < len(child.pages):
                return node, pages_in_node, num_pages

    def take(self, match: PrefixMatch) -> tuple[int, Int32Array]:
        """Split where the match ends inside a node, then use and lock the path."""
        node = self._nodes[match.node]
        if match.num_pages == 0:
            return ROOT, np.zeros(0, dtype=np.int32)
        if match.pages_in_node < len(node.pages):
            node = self._split(node, match.pages_in_node)
        path = self._path(node)
        self._touch(node)
        self._lock(node, path)
        return node.id, np.concatenate([above.pages for above in reversed(path)])

    def _path(self, node: RadixNode) -> list[RadixNode]:
        """From `node` up to the root, the root left out."""
        path = []
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path

    def _split(self, lower: RadixNode, num_pages: int) -> RadixNode:
        """Cut a node after `num_pages` pages. The new, upper node is returned; the lower one keeps its id."""
        before = lower.facts()
        assert lower.parent is not None
        cut = num_pages * self._page_size
        upper = RadixNode(self._new_id(), lower.parent, lower.token_ids[:cut], lower.pages[:num_pages])
        upper.lock, upper.last_use = lower.lock, lower.last_use
        upper.digest = self._journal.content_digest(upper.token_ids)
        lower.parent.children[self._key(upper)] = upper
        lower.parent, lower.token_ids, lower.pages = upper, lower.token_ids[cut:], lower.pages[num_pages:]
        lower.digest = self._journal.content_digest(lower.token_ids)
        upper.children[self._key(lower)] = lower
        self._nodes[upper.id] = upper
        self._journal.split(upper.facts(), lower.facts(), before)
        return upper

    def _touch(self, node: RadixNode) -> None:
        """The path up from `node` is used now."""
        path = self._path(node)
        self._clock += 1
        before = [(above.id, above.last_use) for above in path]
        for above in path:
            above.last_use = self._clock
        self._journal.touched(node.id, self._clock, before)
        self._offer(node)

    # ------------------------------------------------------------ lock and unlock

    def _count_lock(self, nodes: list[RadixNode]) -> None:
        for node in nodes:
            if node.lock == 0:
                self._num_evictable -= len(node.pages)
            node.lock += 1

    def _lock(self, node: RadixNode, path: list[RadixNode]) -> None:
        self._count_lock(path)
        self._journal.locked(node.id, +1, [above.id for above in path])

    def _unlock(self, node: RadixNode) -> None:
        path = self._path(node)
        for above in path:
            above.lock -= 1
            if above.lock == 0:
                self._num_evictable += len(above.pages)
        if path:
            self._journal.locked(node.id, -1, [above.id for above in path])
        self._offer(node)

    # ------------------------------------------------------------ insert

    def extend(self, row: int, node: int, token_ids: Int32Array, pages: Int32Array, num_spare: int) -> int:
        """Hang the newly computed pages below the node that the request holds, and hold them too.

        Another request may have put some of the same tokens there first. Then this one's copies of their pages stay
        its own until it ends, and its further pages hang below the other's; to hold those, nodes are locked whose
        pages counted as evictable, so that is done only where nobody was promised them.
        """
        held = self._nodes[node]
        num_pages = len(token_ids) // self._page_size
        last, pages_in_node, num_known = self._walk(held, token_ids[: num_pages * self._page_size], held.end)
        if num_known == num_pages:
            return node
        locked_now = 0
        above = last
        while above is not held:
            if above.lock == 0:
                locked_now += pages_in_node if above is last else len(above.pages)
            assert above.parent is not None
            above = above.parent
        if locked_now > num_spare:
            return node
        if pages_in_node < len(last.pages):
            last = self._split(last, pages_in_node)
        leaf = self._add_leaf(row, last, token_ids, pages, num_pages)
        between = self._path(leaf)[: len(self._path(leaf)) - len(self._path(held))]
        self._count_lock(between)
        self._journal.moved(row, node, leaf.id, [below.id for below in between])
        return leaf.id

    def finish(self, row: int, node: int, token_ids: Int32Array, pages: Int32Array) -> None:
        """Add what isn't known yet below the node that the request holds, then unlock its path."""
        num_pages = len(token_ids) // self._page_size
        token_ids = token_ids[: num_pages * self._page_size]
        held = self._nodes[node]
        last, pages_in_node, num_known = self._walk(held, token_ids, held.end)
        if num_known < num_pages:
            if pages_in_node < len(last.pages):
                last = self._split(last, pages_in_node)
            last = self._add_leaf(row, last, token_ids, pages, num_pages)
        if last.id != ROOT:
            self._touch(last)
        self._unlock(held)

    def _add_leaf(self, row: int, parent: RadixNode, token_ids: Int32Array, pages: Int32Array, stop: int) -> RadixNode:
        """Add a request's pages from the end of `parent` up to `stop`; the tree takes its references on them."""
        start, size = parent.end, self._page_size
        leaf = RadixNode(self._new_id(), parent, token_ids[start * size : stop * size].copy(), pages[start:stop].copy())
        leaf.digest = self._journal.content_digest(leaf.token_ids)
        self._clock += 1
        leaf.last_use = self._clock
        parent.children[self._key(leaf)] = leaf
        self._nodes[leaf.id] = leaf
        self._allocator.share(leaf.pages)
        self._journal.inserted(leaf.facts(), row)
        self._num_evictable += len(leaf.pages)
        return leaf

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _key(self, node: RadixNode) -> bytes:
        return self._page_key(node.token_ids, 0)

    def _page_key(self, token_ids: Int32Array, page: int) -> bytes:
        return token_ids[page * self._page_size : (page + 1) * self._page_size].tobytes()

    # ------------------------------------------------------------ evict

    def evict(self, num_pages: int) -> None:
        """Remove leaves, least recently used first; a parent that becomes a leaf is next in its turn."""
        if num_pages > self._num_evictable:
            raise ValueError(f"{num_pages} pages should be evicted and {self._num_evictable} can be")
        evicted: list[NodeFacts] = []
        while num_pages > 0:
            last_use, node_id = heapq.heappop(self._heap)
            node = self._nodes.get(node_id)
            if node is None or not node.is_evictable_leaf or node.last_use != last_use:
                continue
            assert node.parent is not None
            evicted.append(node.facts())
            del node.parent.children[self._key(node)]
            del self._nodes[node_id]
            self._num_evictable -= len(node.pages)
            num_pages -= len(self._allocator.release(node.pages))
            self._offer(node.parent)
        self._journal.evicted(evicted)

    def _offer(self, node: RadixNode) -> None:
        """Note a node for eviction, if it is an unlocked leaf."""
        if not node.is_evictable_leaf:
            return
        heapq.heappush(self._heap, (node.last_use, node.id))
        if len(self._heap) > 64 + 4 * len(self._nodes):
            leaves = [(n.last_use, n.id) for n in self._nodes.values() if n.is_evictable_leaf]
            heapq.heapify(leaves)
            self._heap = leaves


def common_prefix(a: Int32Array, b: Int32Array) -> int:
    """How many leading tokens two runs of tokens share; int32 [n] and int32 [m]."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    first = int(different.argmax()) if n else 0
    return n if n == 0 or not different[first] else first
