"""Decode runs are put into groups of like length: every run once, little padding, few groups."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.attention.torch_backend import GROUP_FILL, GROUP_SAVING_TOKENS, group_by_length


def groups_of(lens: list[int]) -> list[list[int]]:
    return [group.tolist() for group in group_by_length(np.array(lens, dtype=np.int32))]


def test_like_lengths_stay_together_in_order() -> None:
    assert groups_of([]) == []
    assert groups_of([7]) == [[0]]
    assert groups_of([50, 60, 55, 1]) == [[0, 1, 2, 3]]  # padding of 59 tokens is cheaper than a second group


def test_unlike_lengths_are_parted() -> None:
    assert groups_of([10, 4000, 12, 4100]) == [[3, 1], [2, 0]]
    assert groups_of([300, 3000]) == [[1], [0]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=64))
def test_each_run_is_in_one_group_and_padding_is_bounded(lens: list[int]) -> None:
    groups = groups_of(lens)
    assert sorted(run for group in groups for run in group) == list(range(len(lens)))
    longest = [max(lens[run] for run in group) for group in groups]
    assert longest == sorted(longest, reverse=True)
    for group in groups:
        padding = sum(max(lens[i] for i in group) - lens[run] for run in group)
        useful = sum(lens[run] for run in group)
        assert padding <= useful * (1 / GROUP_FILL - 1) + len(group) * GROUP_SAVING_TOKENS
