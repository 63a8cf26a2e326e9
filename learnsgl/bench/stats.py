"""Medians, spreads and paired comparisons of repeated measurements; every benchmark sums up with these.

Timings on a shared machine have a long upper tail, so nothing here is a mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Repeated measurements of one thing: their median, and how far they lie apart."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """For tables: `61.2 (58.0 to 62.4)`."""
        median, low, high = (f"{value:,.{digits}f}" for value in self)
        return median if low == high else f"{median} ({low} to {high})"


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median_interval(values: Sequence[float]) -> Spread:
    """Median of pairs' differences or ratios, with the range in which the true median lies with 95% confidence.

    The range runs between two order statistics, so it assumes nothing of how the values are distributed. With fewer
    than six values it is the least and the greatest of them, and says less.

    Source: the sign test's interval, as in Conover, "Practical Nonparametric Statistics" (1999), section 3.2.
    """
    ordered = sorted(values)
    n = len(ordered)
    below, cut = 0.0, 0
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if below > 0.025:
            break
        cut = k
    return Spread(statistics.median(ordered), ordered[cut], ordered[n - 1 - cut])
