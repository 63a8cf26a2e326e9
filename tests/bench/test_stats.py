"""Medians, spreads, intervals and tables."""

from __future__ import annotations

import pytest

from learnsgl.bench.stats import Spread, median_interval, quantile, spread
from learnsgl.bench.tables import Table, judged, verdict


def test_a_spread_holds_median_least_and_greatest() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([3.0, 1.0, 2.0]).text() == "2.0 (1.0 to 3.0)"
    assert spread([1234.5]).text(2) == "1,234.50"


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_quantiles_are_values_that_were_measured(share: float, expected: float) -> None:
    assert quantile(list(range(100, 0, -1)), share) == expected


def test_the_interval_of_few_pairs_is_all_of_them() -> None:
    assert median_interval([1.0, 2.0, 9.0]) == Spread(2.0, 1.0, 9.0)


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15)])
def test_the_interval_of_the_median_is_the_sign_tests(n: int, low: int, high: int) -> None:
    # the ranks are those of the published tables for 95%
    assert median_interval([float(k) for k in range(1, n + 1)])[1:] == (low, high)


def test_a_table_in_text_and_in_markdown() -> None:
    table = Table("t", ("name", "x"), [("long name", "1"), ("a|b", "22")], "All at once.")
    assert table.text().splitlines() == ["name       x", "long name  1", "a|b        22", "All at once."]
    assert table.markdown().splitlines()[-2:] == ["", "All at once."]
    assert "| a\\|b | 22 |" in table.markdown()


def test_verdicts() -> None:
    assert verdict(1.0, at_most=1.0) == "met"
    assert verdict(0.9, at_least=1.0) == "missed"
    assert verdict(1.1, at_least=0.5, at_most=1.0) == "missed"


def test_a_verdict_whose_interval_holds_the_aim_is_unsure() -> None:
    assert judged(Spread(0.5, 0.4, 0.9), at_most=1.0) == "met"
    assert judged(Spread(0.5, 0.4, 1.1), at_most=1.0) == "met, unsure"
    assert judged(Spread(1.2, 0.9, 1.4), at_most=1.0) == "missed, unsure"
    assert judged(Spread(1.2, 1.1, 1.4), at_least=1.3) == "missed, unsure"
