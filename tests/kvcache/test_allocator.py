"""Pages are handed out once, counted, and come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learnsgl.kvcache.allocator import PageAllocator


def test_low_pages_go_first_and_a_freed_page_is_used_again_soon() -> None:
    allocator = PageAllocator(8)
    assert allocator.allocate(3).tolist() == [0, 1, 2]
    assert allocator.release(np.array([1], dtype=np.int32)).tolist() == [1]
    assert allocator.allocate(2).tolist() == [1, 3]


def test_a_shared_page_is_free_only_when_its_last_holder_lets_go() -> None:
    allocator = PageAllocator(4)
    pages = allocator.allocate(2)
    allocator.share(pages[:1])
    assert allocator.release(pages).tolist() == [1]
    assert allocator.num_free == 3
    assert allocator.release(pages[:1]).tolist() == [0]
    assert allocator.num_free == 4


def test_more_than_is_free_is_refused_and_changes_nothing() -> None:
    allocator = PageAllocator(4)
    allocator.allocate(3)
    with pytest.raises(ValueError, match="2 pages were asked for and 1 are free"):
        allocator.allocate(2)
    assert allocator.num_free == 1


class AllocatorMachine(RuleBasedStateMachine):
    """The allocator beside a dictionary of counts."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = PageAllocator(20)
        self.counts: dict[int, int] = {}

    @rule(count=st.integers(0, 6))
    def allocate(self, count: int) -> None:
        if count <= self.allocator.num_free:
            pages = self.allocator.allocate(count).tolist()
            assert not set(pages) & set(self.counts)
            self.counts.update(dict.fromkeys(pages, 1))

    @precondition(lambda self: self.counts)
    @rule(data=st.data(), share=st.booleans())
    def share_or_release(self, data: st.DataObject, share: bool) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.counts)), unique=True))
        pages = np.array(chosen, dtype=np.int32)
        for page in chosen:
            self.counts[page] += 1 if share else -1
        if share:
            self.allocator.share(pages)
        else:
            assert self.allocator.release(pages).tolist() == [p for p in chosen if self.counts[p] == 0]
        self.counts = {page: count for page, count in self.counts.items() if count}

    @invariant()
    def counts_agree(self) -> None:
        assert self.allocator.num_free == 20 - len(self.counts)
        assert {p: int(n) for p, n in enumerate(self.allocator.refs) if n} == self.counts
        assert sorted([*self.allocator.free_pages().tolist(), *self.counts]) == list(range(20))


TestAllocatorMachine = AllocatorMachine.TestCase
