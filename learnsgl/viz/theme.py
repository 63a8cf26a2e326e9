"""One look for all figures: colours that the colour-blind can tell apart, light and dark, and requests coloured by id.

Every figure of `viz/` takes a `Theme`. The request with id 3 has the same colour in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from learnsgl.replay.ledger_causes import Area

REQUEST_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A800")
"""Okabe and Ito's palette (Color Universal Design, 2008) in an order that keeps neighbours far apart; its yellow is
darkened, so that it can be seen on white."""

SERIES_COLOURS = REQUEST_COLOURS
"""The same palette for what isn't a request; no figure colours requests and other things by it at once."""

AREA_COLOURS = {
    Area.API: "#CC79A7",
    Area.TOKENIZER: "#009E73",
    Area.QUEUE: "#E69F00",
    Area.SCHEDULER: "#D55E00",
    Area.OTHERS: "#56B4E9",
    Area.DEVICE: "#0072B2",
    Area.DETOKENIZER: "#B8A800",
}
"""The same palette again, for the parts of the server; messages and what isn't explained are grey."""


@dataclass(frozen=True)
class Theme:
    """Colours of everything that isn't a request.

    Attributes:
        name: light or dark.
        background: of the figure.
        band: of every other lane.
        ink: text.
        muted: secondary text, axes, grid.
        work: what a process does for no single request.
        waiting: time in which a process only waits.
        arrow: messages about several requests.
        mark: frames around what is enlarged elsewhere.
        free: pages that nobody holds, and time in which nothing happens.
        cached: pages that only the prefix cache holds; requests that a figure doesn't tell apart.
        shared: pages that several requests hold.
        hidden: CPU work while the device computes, which costs nobody time.
        exposed: CPU work for which the device waits.
        faded: requests beside the one that is highlighted.
    """

    name: str
    background: str
    band: str
    ink: str
    muted: str
    work: str
    waiting: str
    arrow: str
    mark: str
    free: str
    cached: str
    shared: str
    hidden: str
    exposed: str
    faded: str

    def request(self, uid: int) -> str:
        """The colour of a request; ids that differ by fewer than seven differ in colour."""
        return REQUEST_COLOURS[(uid - 1) % len(REQUEST_COLOURS)]

    def area(self, area: Area) -> str:
        """The colour of a part of the server, in figures that divide time among parts."""
        if area is Area.MESSAGES:
            return self.cached
        return self.waiting if area is Area.UNKNOWN else AREA_COLOURS[area]

    def series(self, place: int) -> str:
        """The colour of the first, second, ... thing that a figure compares, where these aren't requests."""
        return SERIES_COLOURS[place % len(SERIES_COLOURS)]

    def style_axes(self, axes: Axes) -> None:
        """Take away the frame, and colour what is left."""
        axes.set_facecolor(self.background)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(colors=self.muted, labelcolor=self.ink, labelsize=8, length=3)
        axes.xaxis.label.set_color(self.ink)
        axes.xaxis.label.set_fontsize(8.5)
        axes.yaxis.label.set_color(self.ink)
        axes.yaxis.label.set_fontsize(8.5)


LIGHT = Theme(
    name="light",
    background="#ffffff",
    band="#f4f5f7",
    ink="#1f2328",
    muted="#6e7781",
    work="#3d444d",
    waiting="#c4cad1",
    arrow="#57606a",
    mark="#24292f",
    free="#e6e9ed",
    cached="#9aa4af",
    shared="#24292f",
    hidden="#009E73",
    exposed="#D55E00",
    faded="#cdd3da",
)
DARK = Theme(
    name="dark",
    background="#0d1117",
    band="#171c24",
    ink="#e6edf3",
    muted="#8b949e",
    work="#d0d7de",
    waiting="#3d444d",
    arrow="#b1bac4",
    mark="#f0f6fc",
    free="#262c36",
    cached="#6b7684",
    shared="#f0f6fc",
    hidden="#009E73",
    exposed="#D55E00",
    faded="#3b434e",
)


def ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour (relative luminance of WCAG 2.1)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"
