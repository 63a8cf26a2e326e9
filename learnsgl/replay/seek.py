"""The scheduler's state after any of its events: from the nearest checkpoint or keyframe before it, folded forward.

`replay.py` has a `StateSeeker` for each scheduler. The first time in a stretch, it goes back to the last whole
keyframe; on its way forward it leaves copies of the fold every 500 events, so that the stretch costs little from
then on. The folding itself is `trace/fold.py`, so a recording that contradicts itself is found here too.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict

from learnsgl.errors import TraceViolation
from learnsgl.replay.steps_fold import StepsFold
from learnsgl.replay.stream import ProcessStream
from learnsgl.trace import events
from learnsgl.trace.checks.base import violation
from learnsgl.trace.digest import StateDigest
from learnsgl.trace.fold import Fold

AnyFold = Fold | StepsFold

SPACING = 500
"""Events between two checkpoints: folding so many takes 10 ms at 256 running requests."""

MAX_CHECKPOINT_BYTES = 128 << 20
"""Memory of all checkpoints of one scheduler, roughly; the least recently used go first. At 256 requests of up to 320
tokens and 160,000 pages of one token a checkpoint takes 0.7 MB, so these are the last 90,000 events or so that were
visited; where pages hold 16 tokens, they are half a million."""


class StateSeeker:
    """Finds the state of one scheduler after any of its events.

    Args:
        stream: the scheduler's events.
        only_steps: whether the recording is of level `steps`, without pages and the tree.
    """

    def __init__(self, stream: ProcessStream, *, only_steps: bool) -> None:
        self._stream = stream
        self._only_steps = only_steps
        self._numbers: list[int] = []
        self._checkpoints: OrderedDict[int, AnyFold] = OrderedDict()
        self._num_bytes = 0
        self._digest = StateDigest()
        """Its tables of weights are shared by all folds; only the values are their own."""
        self._cursor: tuple[int, AnyFold] | None = None
        """Where the last search ended, so that the next event costs one event."""

    @property
    def num_checkpoints(self) -> int:
        """Checkpoints that are kept now."""
        return len(self._checkpoints)

    def move_to(self, stream: ProcessStream) -> None:
        """Go on with the same process's events, of which there may be more now."""
        self._stream = stream

    def fold_at(self, number: int) -> AnyFold:
        """The fold after the event with this number. It isn't to be changed: copy it to go on from it.

        Raises:
            TraceViolation: the recording contradicts itself on the way; process, number and kind are named.
        """
        base, fold = self._base(number)
        if base == number:
            return fold
        fold = fold.copy()
        last_kept = base
        for entry in self._stream.forward(base + 1, number + 1):
            if isinstance(entry.event, events.TraceDropped):
                fold = self._new_fold(from_start=False)
            try:
                fold.apply(entry.event)
            except TraceViolation as error:
                raise violation(entry, str(error)) from error
            if entry.number - last_kept >= SPACING and fold.is_known:
                self._keep(entry.number, fold.copy())
                last_kept = entry.number
        self._cursor = number, fold
        return fold

    def _new_fold(self, *, from_start: bool) -> AnyFold:
        if self._only_steps:
            return StepsFold(from_start=from_start)
        return Fold(from_start=from_start, digest=self._digest.copy())

    # ------------------------------------------------------------ where to begin

    def _base(self, number: int) -> tuple[int, AnyFold]:
        """The nearest place before or at `number` from where the state is known: number of its last event, and fold."""
        lowest = self._stream.first - 1  # what follows an older place may have been dropped meanwhile
        base, fold = lowest, None
        place = bisect_right(self._numbers, number) - 1
        if place >= 0 and self._numbers[place] >= lowest:
            base = self._numbers[place]
            fold = self._checkpoints[base]
            self._checkpoints.move_to_end(base)
        if self._cursor is not None and base <= self._cursor[0] <= number:
            base, fold = self._cursor
        if not self._only_steps and number - base > SPACING:
            entrance = self._stream.last_keyframe(number, base + 1)
            if entrance is not None:
                return entrance - 1, self._new_fold(from_start=False)
        return base, fold or self._new_fold(from_start=self._stream.first == 1)

    # ------------------------------------------------------------ checkpoints

    def _keep(self, number: int, fold: AnyFold) -> None:
        if number in self._checkpoints:
            self._checkpoints.move_to_end(number)
            return
        fold.state.compact()
        self._checkpoints[number] = fold
        insort(self._numbers, number)
        self._num_bytes += fold.state.num_bytes
        while self._num_bytes > MAX_CHECKPOINT_BYTES and len(self._checkpoints) > 2:
            oldest, given_up = self._checkpoints.popitem(last=False)
            self._numbers.remove(oldest)
            self._num_bytes -= given_up.state.num_bytes
