"""The rows of a timeline: one a process, and two for the device of the scheduler.

`timeline.py` makes them once, so that all panels of its figure have the same rows; `painter.py` draws into them.
Heights count from the top.
"""

from __future__ import annotations

from dataclasses import dataclass

from learnsgl.replay.history import History

PREFILL_LANE = "prefill"
DECODE_LANE = "decode"
_VISIT_HEIGHT = 0.3
_MAX_API_HEIGHT = 3.6
"""So many requests share that their rows get thinner, rather than the other lanes."""
_MARGIN = 0.14


@dataclass(frozen=True)
class Lane:
    """One row.

    Attributes:
        name: what stands beside it.
        top: its upper edge.
        height: of it.
    """

    name: str
    top: float
    height: float

    @property
    def middle(self) -> float:
        """Its centre."""
        return self.top + self.height / 2

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height

    @property
    def inner(self) -> tuple[float, float]:
        """Upper edge and height of what is drawn in it."""
        return self.top + _MARGIN, self.height - 2 * _MARGIN


class Lanes:
    """All rows of a figure.

    Attributes:
        by_key: from the name of a process, `PREFILL_LANE` or `DECODE_LANE` to its row, from the top.
        visits: from a request's id to the middle of its own thin row in the lane of the API server.
        visit_height: of such a row.

    Args:
        data: the recording.
    """

    def __init__(self, data: History) -> None:
        self.by_key: dict[str, Lane] = {}
        api_height = min(_MAX_API_HEIGHT, max(1.0, 0.3 + _VISIT_HEIGHT * len(data.visits)))
        if data.visits and "api" not in data.processes:  # the offline API: one process, and no door of its own
            self._add("api", "requests", api_height)
        for process in data.processes:
            if process == data.scheduler:
                self._add(process, f"{process}\ndecides", 0.9)
                self._add(PREFILL_LANE, "its device:\nprefill chunks", 1.2)
                self._add(DECODE_LANE, "its device:\ndecode steps", 1.2)
            else:
                self._add(process, process, api_height if process == "api" else 0.9)
        self.visits: dict[int, float] = {}
        self.visit_height = _VISIT_HEIGHT
        if data.visits:
            top, height = self.by_key["api"].inner
            self.visit_height = min(_VISIT_HEIGHT, height / len(data.visits))
            for place, visit in enumerate(data.visits):
                self.visits[visit.uid] = top + height * (place + 0.5) / len(data.visits)

    def _add(self, key: str, name: str, height: float) -> None:
        self.by_key[key] = Lane(name, self.bottom, height)

    @property
    def bottom(self) -> float:
        """The lower edge of the last one."""
        return max((lane.bottom for lane in self.by_key.values()), default=0.0)
