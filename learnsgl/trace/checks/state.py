"""The scheduler's state, folded from its events, meets every digest and keyframe, and no page is lost or held twice.

The folding itself is `trace/fold.py`; here is where it begins, where it must begin anew, and what was met.
"""

from __future__ import annotations

from collections.abc import Iterator

from learnsgl.errors import TraceViolation
from learnsgl.trace import events
from learnsgl.trace.checks.base import Check, Handler, Missing, Scope, place_of, violation
from learnsgl.trace.events import KINDS, Event
from learnsgl.trace.fold import Fold
from learnsgl.trace.reader import Entry


class StateCheck(Check):
    """Folds the events of every scheduler."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._schedulers = set(scope.named("scheduler"))
        self._folds: dict[str, Fold] = {}
        self._last: dict[str, Entry] = {}
        self._num_digests = 0
        self._num_keyframes = 0

    def handlers(self) -> dict[type[Event], Handler]:
        """Every kind, at the levels at which pages and the cache are recorded."""
        return dict.fromkeys(KINDS.values(), self._any) if self._scope.full else {}

    def _any(self, entry: Entry, event: Event) -> None:
        name = entry.process
        if name not in self._schedulers:
            return
        if isinstance(event, events.TraceDropped):
            self._count(self._folds.pop(name, None))
            self._folds[name] = Fold(from_start=False)
        elif name not in self._folds:
            self._folds[name] = Fold(from_start=name not in self._scope.late)
        try:
            self._folds[name].apply(event)
        except TraceViolation as error:
            raise violation(entry, str(error)) from error
        self._last[name] = entry

    def _count(self, fold: Fold | None) -> None:
        if fold is not None:
            self._num_digests += fold.num_digests
            self._num_keyframes += fold.num_keyframes

    def finish(self) -> Iterator[Missing]:
        """What a fold finds at the end of its events."""
        for name, fold in self._folds.items():
            self._count(fold)
            if not fold.is_known:
                self._scope.notes.append(f"{name}: no keyframe follows the missing part; its state isn't checked")
            try:
                fold.finish()
            except TraceViolation as error:
                yield Missing(place_of(self._last[name]), str(error))

    def proved(self) -> list[str]:
        """Digests and keyframes."""
        if not self._scope.full:
            return []
        return [
            f"state     {self._num_digests:,} digests and {self._num_keyframes:,} keyframes met by folding the events",
            "pages     conserved: at each keyframe and at the end, each is free or held by those who say so",
        ]
