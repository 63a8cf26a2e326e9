"""Numbers as the figures write them."""

from __future__ import annotations

import pytest

from learnsgl.viz.words import bytes_on_axis, count, duration, listed, num_bytes, percent


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"), (12, "12 ns"), (950_000, "950 µs"), (999_600, "1.00 ms"), (9_996_000, "10.0 ms"),
        (38_210_000, "38.2 ms"), (1_244_000_000, "1.24 s"), (123_456_000_000, "123 s"), (4_000_000_000_000, "4,000 s"),
    ],
)  # fmt: skip
def test_durations_have_three_digits_and_a_unit(ns: int, text: str) -> None:
    assert duration(ns) == text


def test_bytes_are_decimal() -> None:
    assert [num_bytes(n) for n in (0, 512, 46_080, 5_887_319_040)] == ["0 B", "512 B", "46.1 kB", "5.89 GB"]
    assert [bytes_on_axis(n) for n in (0, 5e9, 2.5e9)] == ["0", "5 GB", "2.50 GB"]


def test_counts_agree_with_their_nouns() -> None:
    assert [count(1, "step"), count(1204, "step"), count(2, "query", "queries")] == [
        "1 step", "1,204 steps", "2 queries",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 10, "0%"), (10, 10, "100%"), (1, 1000, "under 1%"), (999, 1000, "over 99%"), (1, 3, "33%"), (1, 0, "0%")],
)
def test_a_share_is_never_rounded_to_nothing_or_all(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_long_lists_are_cut() -> None:
    assert listed(["1", "2"]) == "1, 2"
    assert listed([str(n) for n in range(9)]) == "0, 1, 2, 3 and 5 more"
