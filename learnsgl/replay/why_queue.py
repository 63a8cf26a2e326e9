"""The scheduler's queue and its table rows at any moment of a recording: who waits behind whom, who holds what.

`why.py` tells it in words. All of it follows from requests and steps, so it is known at every level of recording.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from learnsgl.core import ReqKey
from learnsgl.replay.history_data import Block, DeviceStep, History, ReqHistory
from learnsgl.trace.checks.base import Place

NEVER_NS = 1 << 62


class Holder(NamedTuple):
    """A running request, and what it holds.

    Attributes:
        key: the request.
        row: its table row.
        num_pages: pages that it holds.
        num_promised: pages that it may still ask for; they were promised to it when it was admitted.
        admitted: the event.
    """

    key: ReqKey
    row: int
    num_pages: int
    num_promised: int
    admitted: Place


class Queue:
    """Who waited and who ran, at any moment.

    Args:
        history: the recording.
    """

    def __init__(self, history: History) -> None:
        self._page_size = history.engine.page_size if history.engine is not None else 1
        self._reqs = [req for journey in history.journeys.values() for req in journey.choices.values()]
        self._steps = history.steps
        self._step_ns = [0 if step.schedule_ns is None else step.schedule_ns[1] for step in history.steps]
        self._by_number = {step.number: step for step in history.steps}

    def waiting(self, ns: int) -> list[ReqHistory]:
        """The queue at a moment, first come first."""
        found = [req for req in self._reqs if req.queued is not None and req.queued.ns <= ns < self._left_ns(req)]
        return sorted(found, key=lambda req: (-1 if req.order is None else req.order, req.key))

    def block(self, req: ReqHistory, ns: int) -> Block | None:
        """Why a waiting request was not admitted when the scheduler last looked at it and had a new reason."""
        place = bisect_right(req.blocks, ns, key=lambda block: block.place.ns)
        return req.blocks[place - 1] if place else None

    def holders(self, ns: int) -> list[Holder]:
        """Requests that hold a table row at a moment, by row."""
        return self._holders(ns)

    def promised(self, block: Block) -> list[Holder]:
        """Requests to which pages were promised when another one was blocked, by row."""
        return [holder for holder in self._holders(block.place.ns, block.step) if holder.num_promised]

    def rows_at(self, block: Block) -> list[Holder]:
        """Requests that held a table row when another one was blocked, by row."""
        return self._holders(block.place.ns, block.step)

    def step(self, number: int) -> DeviceStep | None:
        """A step by its number."""
        return self._by_number.get(number)

    def last_step(self, ns: int) -> DeviceStep | None:
        """The newest step that had been put together at a moment."""
        place = bisect_right(self._step_ns, ns)
        return self._steps[place - 1] if place else None

    def scheduler_at(self, ns: int) -> tuple[str, Place | None]:
        """What the scheduler does at a moment."""
        last = self.last_step(ns)
        numbers = () if last is None else range(max(1, last.number - 2), last.number + 2)
        steps = [step for number in numbers if (step := self.step(number)) is not None]
        if last is None and (first := next(iter(self._steps), None)) is not None:
            steps = [first]
        for step in steps:
            spans = (
                ("wait", step.wait_ns, "waits for"), ("commit", step.commit_ns, "takes over"),
                ("schedule", step.schedule_ns, "puts together"), ("submit", step.submit_ns, "submits"),
                ("masks", step.masks_ns, "computes the masks of"),
            )  # fmt: skip
            for name, span, verb in spans:
                if span is not None and span[0] <= ns < span[1]:
                    return f"{verb} step {step.number}", step.places.get(name)
        return "is between two steps", None

    def _holders(self, ns: int, before: int | None = None) -> list[Holder]:
        """`before`: the step that is being put together, whose own runs don't count yet, but whose admissions do."""
        found = []
        for req in self._reqs:
            if req.admitted is None or req.row is None:
                continue
            is_in = req.admitted.ns <= ns or (before is not None and req.admitted_step == before)
            if is_in and (req.released is None or req.released.ns > ns):
                found.append(self._holder(req, req.admitted, req.row, ns, before))
        return sorted(found, key=lambda holder: holder.row)

    def _holder(self, req: ReqHistory, admitted: Place, row: int, ns: int, before: int | None) -> Holder:
        num_tokens = req.cached_len
        for number in reversed(req.steps):
            step = self._by_number[number]
            is_there = number < before if before is not None else (step.schedule_ns or (0, 0))[1] <= ns
            if is_there:
                place = step.keys.index(req.key)
                num_tokens = step.starts[place] + step.runs[place].num_tokens
                break
        num_pages = self._pages(num_tokens)
        is_over = req.finished is not None and req.finished.ns <= ns
        # the last token's KV is never computed
        promised = 0 if is_over or req.limit_len is None else self._pages(req.limit_len - 1) - num_pages
        return Holder(req.key, row, num_pages, promised, admitted)

    def _left_ns(self, req: ReqHistory) -> int:
        """When a request left the queue; one that is admitted, when its step began to be put together."""
        step = self._by_number.get(req.admitted_step or 0)
        if req.admitted is not None and step is not None and step.schedule_ns is not None:
            return step.schedule_ns[0]
        left = req.admitted or req.finished
        return NEVER_NS if left is None else left.ns

    def _pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._page_size)
