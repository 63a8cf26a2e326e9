"""Colours: a request keeps its own, and text can be read on all of them."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.colors import to_rgb

from learnsgl.replay.ledger_causes import Area
from learnsgl.viz.theme import DARK, LIGHT, REQUEST_COLOURS, Theme, ink_on


def luminance(colour: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.1, from 1 to 21."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_a_request_has_one_colour_in_both_themes() -> None:
    assert [LIGHT.request(uid) for uid in range(1, 30)] == [DARK.request(uid) for uid in range(1, 30)]


def test_seven_requests_in_a_row_differ_in_colour() -> None:
    for first in range(1, 20):
        assert len({LIGHT.request(uid) for uid in range(first, first + 7)}) == 7


@pytest.mark.parametrize("colour", REQUEST_COLOURS)
def test_numbers_can_be_read_in_a_request_bar(colour: str) -> None:
    assert contrast(ink_on(colour), colour) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_text_can_be_read_and_bars_seen(theme: Theme) -> None:
    for behind in (theme.background, theme.band):
        assert contrast(theme.ink, behind) >= 7
        assert contrast(theme.work, behind) >= 3
        assert min(contrast(colour, behind) for colour in REQUEST_COLOURS) >= 2


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_free_cached_and_shared_pages_differ_in_lightness(theme: Theme) -> None:
    levels = [theme.background, theme.free, theme.cached, theme.shared]
    assert all(contrast(one, other) >= 1.15 for one, other in itertools.pairwise(levels))
    assert contrast(theme.free, theme.cached) >= 2
    assert contrast(theme.cached, theme.shared) >= 2


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_part_of_the_server_has_a_colour_of_its_own(theme: Theme) -> None:
    colours = [theme.area(area) for area in Area]
    assert len(set(colours)) == len(colours)
    assert all(contrast(ink_on(colour), colour) >= 4.5 for colour in colours)
