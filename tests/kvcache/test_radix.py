"""The radix tree: match, split, lock, insert, and eviction by least recent use."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from learnsgl.config import TraceLevel
from learnsgl.kvcache.allocator import PageAllocator
from learnsgl.kvcache.radix import RadixCache, common_prefix
from learnsgl.trace.journal import Journal
from learnsgl.trace.recorder import Recorder


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


class Tree:
    """A cache, and requests that use it in one breath."""

    def __init__(self, page_size: int = 1, num_pages: int = 32) -> None:
        clock = itertools.count().__next__
        self.allocator = PageAllocator(num_pages)
        self.cache = RadixCache(page_size, self.allocator, Journal(Recorder(TraceLevel.OFF), clock, b""))
        self.page_size = page_size

    def serve(self, *tokens: int) -> int:
        """A request that runs to its end; returns the pages that it found in the cache."""
        node, pages = self.begin(*tokens)
        self.cache.finish(0, node, ids(*tokens), pages)
        self.allocator.release(pages)
        return self.found

    def begin(self, *tokens: int) -> tuple[int, np.ndarray]:
        """A request that has taken its prefix and allocated the rest."""
        node, shared = self.cache.take(self.cache.find(ids(*tokens)))
        self.allocator.share(shared)
        self.found = len(shared)
        own = self.allocator.allocate(-(-len(tokens) // self.page_size) - len(shared))
        return node, np.concatenate([shared, own])

    def known(self, *tokens: int) -> int:
        return self.cache.find(ids(*tokens)).num_pages


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [((), (), 0), ((1,), (), 0), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1, 9, 3), 1), ((5,), (6,), 0)],
)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...], shared: int) -> None:
    assert common_prefix(ids(*a), ids(*b)) == shared


def test_an_empty_tree_knows_nothing() -> None:
    tree = Tree()
    assert tree.known(1, 2, 3) == 0
    assert tree.known() == 0
    assert tree.cache.num_nodes == 0


def test_a_second_request_finds_what_the_first_computed() -> None:
    tree = Tree()
    assert tree.serve(1, 2, 3, 4) == 0
    assert tree.serve(1, 2, 3, 4, 5) == 4
    assert tree.known(1, 2, 3, 4, 5, 6) == 5
    assert tree.allocator.num_free == 32 - 5


def test_a_match_inside_a_node_splits_it_and_looking_does_not() -> None:
    tree = Tree()
    tree.serve(1, 2, 3, 4)
    assert tree.known(1, 2, 9) == 2
    assert tree.cache.num_nodes == 1
    tree.serve(1, 2, 9)
    assert tree.cache.num_nodes == 3
    assert tree.known(1, 2, 3, 4) == 4
    assert tree.known(1, 2, 9) == 3


def test_pages_are_shared_whole_only() -> None:
    tree = Tree(page_size=4)
    tree.serve(1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert tree.known(1, 2, 3, 4, 5, 6, 7, 8, 9) == 2  # the ninth token fills no page
    assert tree.known(1, 2, 3, 4, 5, 6, 7, 0) == 1
    assert tree.known(1, 2, 3) == 0
    assert tree.allocator.num_free == 32 - 2


def test_the_least_recently_used_leaf_goes_first_and_parents_follow() -> None:
    tree = Tree()
    tree.serve(1, 2, 3)
    tree.serve(1, 2, 4)  # splits: (1 2) with the leaves (3) and (4)
    tree.serve(7, 8)
    tree.serve(1, 2, 3)  # used again, so (4) is now the oldest
    tree.cache.evict(1)
    assert (tree.known(1, 2, 4), tree.known(1, 2, 3), tree.known(7, 8)) == (2, 3, 2)
    tree.cache.evict(1)  # a node goes whole
    assert (tree.known(7, 8), tree.known(1, 2, 3)) == (0, 3)
    tree.cache.evict(3)
    assert tree.cache.num_nodes == 0
    assert tree.allocator.num_free == 32


def test_what_a_request_holds_is_not_evicted() -> None:
    tree = Tree()
    tree.serve(1, 2, 3)
    node, pages = tree.begin(1, 2, 9)
    assert tree.cache.num_evictable == 1  # (3) alone
    tree.cache.evict(1)
    with pytest.raises(ValueError, match="1 pages should be evicted and 0 can be"):
        tree.cache.evict(1)
    tree.cache.finish(0, node, ids(1, 2, 9), pages)
    tree.allocator.release(pages)
    assert tree.cache.num_evictable == 3


def test_find_tells_how_many_evictable_pages_the_match_would_lock() -> None:
    tree = Tree()
    tree.serve(1, 2, 3, 4)
    match = tree.cache.find(ids(1, 2, 3))
    assert (match.num_pages, match.num_evictable) == (3, 3)
    node, pages = tree.begin(1, 2)
    match = tree.cache.find(ids(1, 2, 3))
    assert (match.num_pages, match.num_evictable) == (3, 1)
    tree.cache.finish(0, node, ids(1, 2), pages)


def test_a_running_request_shares_its_prefix_as_it_grows() -> None:
    tree = Tree()
    node, pages = tree.begin(1, 2, 3, 4)
    node = tree.cache.extend(0, node, ids(1, 2), pages, 0)
    assert tree.known(1, 2, 3, 4) == 2
    node = tree.cache.extend(0, node, ids(1, 2, 3, 4), pages, 0)
    assert tree.known(1, 2, 3, 4) == 4
    assert tree.cache.num_evictable == 0
    tree.cache.finish(0, node, ids(1, 2, 3, 4), pages)
    assert tree.cache.num_evictable == 4


def test_two_requests_that_computed_the_same_keep_one_copy() -> None:
    tree = Tree()
    first, first_pages = tree.begin(1, 2, 3)
    second, second_pages = tree.begin(1, 2, 3)
    first = tree.cache.extend(0, first, ids(1, 2, 3), first_pages, 0)
    assert tree.cache.extend(1, second, ids(1, 2, 3), second_pages, 9) == second  # the other's copy stays the tree's
    assert tree.cache.num_evictable == 0
    tree.cache.finish(1, second, ids(1, 2, 3), second_pages)
    assert tree.allocator.release(second_pages).tolist() == second_pages.tolist()
    tree.cache.finish(0, first, ids(1, 2, 3), first_pages)
    tree.allocator.release(first_pages)
    assert tree.allocator.num_free == 32 - 3
    assert tree.known(1, 2, 3) == 3


def test_a_common_beginning_computed_twice_does_not_keep_the_rest_from_being_shared() -> None:
    tree = Tree()
    first, first_pages = tree.begin(1, 2, 3)
    second, second_pages = tree.begin(1, 2, 7, 8)
    first = tree.cache.extend(0, first, ids(1, 2, 3), first_pages, 0)
    second = tree.cache.extend(1, second, ids(1, 2, 7, 8), second_pages, 0)  # (1 2) is locked by the first already
    assert tree.known(1, 2, 7, 8, 9) == 4
    assert tree.cache.num_evictable == 0
    tree.cache.finish(0, first, ids(1, 2, 3), first_pages)
    tree.allocator.release(first_pages)
    assert tree.cache.num_evictable == 1  # (3); the second request holds the other's (1 2) now
    tree.cache.finish(1, second, ids(1, 2, 7, 8), second_pages)
    assert tree.allocator.release(second_pages).tolist() == second_pages[:2].tolist()  # its own copies of (1 2)
    assert tree.cache.num_evictable == 5


def test_a_running_request_locks_no_page_that_was_promised() -> None:
    tree = Tree()
    second, second_pages = tree.begin(1, 2, 7, 8)
    tree.serve(1, 2, 3)  # meanwhile another has come and gone: (1 2 3) is evictable, and may be promised
    assert tree.cache.extend(1, second, ids(1, 2, 7, 8), second_pages, 1) == second
    assert tree.cache.num_nodes == 1
    moved = tree.cache.extend(1, second, ids(1, 2, 7, 8), second_pages, 2)
    assert moved != second
    assert tree.cache.num_evictable == 1
    tree.cache.finish(1, moved, ids(1, 2, 7, 8), second_pages)


def test_many_uses_keep_the_eviction_heap_small() -> None:
    tree = Tree()
    for _ in range(500):
        tree.serve(1, 2, 3)
    assert len(tree.cache._heap) <= 64 + 4 * (tree.cache.num_nodes + 1) + 1
    tree.cache.evict(3)
    assert tree.allocator.num_free == 32
