"""The figure of lesson 1.1: which versions of the C++ library are offered, and which ones packages ask for.

Its notebook draws it of a made-up machine and of the reader's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learnsgl.doctor.elf import read_versions
from learnsgl.doctor.libstdcxx import Need, named
from learnsgl.lessons.environment_machine import number_of
from learnsgl.viz.sheet import SMALL_SIZE, finish, grid, new_figure
from learnsgl.viz.theme import LIGHT, Theme, ink_on

_BASE_INCHES = 1.5
_LANE_INCHES = 0.36
_BAR_HEIGHT = 0.55


@dataclass(frozen=True)
class Offer:
    """A C++ library.

    Attributes:
        label: whose it is.
        newest: its last version, `N` of `GLIBCXX_3.4.N`.
        is_loaded: whether it is the one that the linker takes.
    """

    label: str
    newest: int
    is_loaded: bool


@dataclass(frozen=True)
class Ask:
    """A package.

    Attributes:
        package: its name.
        versions: what its compiled files ask for, each `N` of `GLIBCXX_3.4.N`, in order.
        lacking: those of them that the library that is loaded doesn't offer.
    """

    package: str
    versions: tuple[int, ...]
    lacking: tuple[int, ...]


@dataclass(frozen=True)
class OffersAndAsks:
    """What the figure shows: libraries, and packages with the most demanding one last."""

    offers: tuple[Offer, ...]
    asks: tuple[Ask, ...]

    @property
    def loaded(self) -> Offer:
        """The library that the linker takes."""
        return next(offer for offer in self.offers if offer.is_loaded)


def offers_and_asks(
    libraries: Mapping[str, Path], needs: Sequence[Need], *, theme: Theme = LIGHT
) -> tuple[Figure, OffersAndAsks]:
    """Draw which versions libraries offer, and which ones packages ask for.

    Args:
        libraries: the path of each, by a label; the first one is the one that the linker takes.
        needs: what compiled files ask for.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and what it shows.

    Raises:
        ValueError: there is no library.
    """
    data = read_offers_and_asks(libraries, needs)
    figure = new_figure(theme, _BASE_INCHES + _LANE_INCHES * (len(data.offers) + len(data.asks)))
    axes = figure.add_subplot()
    _draw(axes, data, theme)
    finish(figure, theme, _title(data), subtitle="the C++ library (libstdc++.so.6): versions offered, and asked for")
    return figure, data


def read_offers_and_asks(libraries: Mapping[str, Path], needs: Sequence[Need]) -> OffersAndAsks:
    """Read the versions from the files."""
    if not libraries:
        raise ValueError("no library was given; the first one is taken for the one that is loaded")
    defined = {label: _numbers(read_versions(path).defined) for label, path in libraries.items()}
    first = next(iter(libraries))
    offers = tuple(Offer(label, max(numbers, default=0), label == first) for label, numbers in defined.items())
    asked: dict[str, set[int]] = {}
    for need in needs:
        asked.setdefault(need.package, set()).update(_numbers(need.versions))
    asks = [
        Ask(package, tuple(sorted(numbers)), tuple(sorted(numbers - defined[first])))
        for package, numbers in asked.items()
    ]
    return OffersAndAsks(offers, tuple(sorted(asks, key=lambda ask: (max(ask.versions, default=0), ask.package))))


def _numbers(versions: frozenset[str]) -> set[int]:
    ours = [version for version in versions if version == "GLIBCXX_3.4" or version.startswith("GLIBCXX_3.4.")]
    return {number_of(version) for version in ours if version.count(".") <= 2}


def _draw(axes: Axes, data: OffersAndAsks, theme: Theme) -> None:
    theme.style_axes(axes)
    last = max([offer.newest for offer in data.offers] + [number for ask in data.asks for number in ask.versions])
    labels = []
    for place, offer in enumerate(data.offers):
        colour = theme.work if offer.is_loaded else theme.waiting
        axes.barh(place, offer.newest + 1, left=-0.5, height=_BAR_HEIGHT, color=colour, lw=0, zorder=2)
        said = "offers, and is loaded" if offer.is_loaded else "offers, and isn't loaded"
        axes.text(0, place, said, va="center", fontsize=SMALL_SIZE, color=ink_on(colour), zorder=3)
        labels.append(offer.label)
    for place, ask in enumerate(data.asks, start=len(data.offers)):
        met = [number for number in ask.versions if number not in ask.lacking]
        axes.plot(met, [place] * len(met), "o", ms=6, color=theme.hidden, zorder=3)
        axes.plot(ask.lacking, [place] * len(ask.lacking), "X", ms=8, color=theme.exposed, zorder=3)
        if ask.lacking:
            axes.annotate(
                "not found", (ask.lacking[-1], place), (8, 0), textcoords="offset points", va="center",
                fontsize=SMALL_SIZE, color=theme.exposed, fontweight="bold",
            )  # fmt: skip
        labels.append(f"{ask.package} asks for")
    axes.axvline(data.loaded.newest + 0.5, color=theme.ink, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(-1, last + 4)
    axes.set_xticks(range(0, last + 1, 2), [str(number) for number in range(0, last + 1, 2)])
    axes.set_xlabel("N of GLIBCXX_3.4.N")
    grid(axes, theme, "x")


def _title(data: OffersAndAsks) -> str:
    loaded = named(f"GLIBCXX_3.4.{data.loaded.newest}")
    lacking = [ask for ask in data.asks if ask.lacking]
    if not lacking:
        return f"The library that is loaded ends at {loaded}, and no package asks for more"
    wanted = named(f"GLIBCXX_3.4.{lacking[-1].lacking[-1]}")
    return f"{lacking[-1].package} asks for {wanted}, and what is loaded ends at {loaded.removeprefix('GLIBCXX_')}"
