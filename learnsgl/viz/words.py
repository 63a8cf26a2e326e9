"""Numbers as the figures write them: durations, bytes and counts, each with a unit and as many digits as help.

Every figure of `viz/` takes its labels from here, so that 0.0382 s is 38 ms in all of them.
"""

from __future__ import annotations

_DURATIONS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def duration(ns: float) -> str:
    """A duration in nanoseconds with three significant digits: `1.24 s`, `38.2 ms`, `950 µs`, `12 ns`."""
    for size, unit in _DURATIONS:
        if ns >= 0.9995 * size:
            return f"{_digits(ns / size)} {unit}"
    return f"{ns:.0f} ns"


def num_bytes(count: float) -> str:
    """Bytes in decimal units: `5.89 GB`, `46.1 kB`, `512 B`."""
    for size, unit in _BYTES:
        if count >= 0.9995 * size:
            return f"{_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def bytes_on_axis(count: float) -> str:
    """Bytes at a tick, without zeros that say nothing: `5 GB`."""
    return num_bytes(count).replace(".00 ", " ").replace(".0 ", " ") if count else "0"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 step`, `1,204 steps`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(part: float, whole: float) -> str:
    """A share without decimals; one that is neither nothing nor all isn't rounded to either."""
    if whole <= 0:
        return "0%"
    share = 100 * part / whole
    if 0 < share < 0.5:
        return "under 1%"
    if 99.5 < share < 100:
        return "over 99%"
    return f"{share:.0f}%"


def listed(words: list[str], most: int = 4) -> str:
    """A few words in a row, and how many are left out: `1, 2, 3, 4 and 9 more`."""
    if len(words) <= most:
        return ", ".join(words)
    return f"{', '.join(words[:most])} and {len(words) - most:,} more"


def _digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
