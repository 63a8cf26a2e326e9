"""What the device and the other processes did in a recording, ready to be asked about any stretch of time.

The ledger asks it for the time in which a request was admitted and its step had not run yet: whose steps had the
device, and why it was idle in between.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from learnsgl.core import ReqKey
from learnsgl.replay.history_data import DeviceStep, History, SpanNs
from learnsgl.replay.ledger_causes import Cause
from learnsgl.replay.ledger_spans import NEVER_BUSY, Busy, Part


class Activity:
    """The steps of a recording as the device ran them, and when each process worked.

    Attributes:
        history: the recording.
        steps: every step by its number.

    Args:
        history: the recording.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.steps = {step.number: step for step in history.steps}
        self._members = {step.number: {key: place for place, key in enumerate(step.keys)} for step in history.steps}
        self._num_chunks = {step.number: len(step.chunks) for step in history.steps}
        self._ran = [step for step in history.steps if step.device_ns is not None]
        self._ends = [_device_ns(step)[1] for step in self._ran]
        self._scheduled = [step.schedule_ns[0] for step in history.steps if step.schedule_ns is not None]
        self._not_run = [step for step in history.steps if step.device_ns is None]
        self._busy = self._busy_processes()

    def busy(self, process: str | None) -> Busy:
        """When a process worked for requests; never, where the recording doesn't say."""
        return self._busy.get(process or "", NEVER_BUSY)

    def scheduled_after(self, ns: int) -> int:
        """When the first step was begun that was put together at a moment or later; else the end of the recording."""
        place = bisect_left(self._scheduled, ns)
        if place < len(self._scheduled):
            return self._scheduled[place]
        return max(self.history.last_ns.values(), default=ns)

    def _busy_processes(self) -> dict[str, Busy]:
        spans: dict[str, list[SpanNs]] = {}
        for work in self.history.work:
            spans.setdefault(work.process, []).append((work.start_ns, work.end_ns))
        loop = spans.setdefault(self.history.scheduler, [])
        sent = sorted(
            letter.sent.ns for letter in self.history.letters if letter.sent.process == self.history.scheduler
        )
        for step in self.history.steps:
            if step.schedule_ns is not None and step.submit_ns is not None:
                loop.append((step.schedule_ns[0], step.submit_ns[1]))
            if step.commit_ns is not None:
                waited_ns = step.commit_ns[0] if step.wait_ns is None else step.wait_ns[0]
                place = bisect_left(sent, step.commit_ns[1])  # after its commit a step's reply is made and sent
                loop.append((waited_ns, sent[place] if place < len(sent) else step.commit_ns[1]))
        return {process: Busy(its_spans) for process, its_spans in spans.items()}

    def parts(self, key: ReqKey, start_ns: int, end_ns: int) -> Iterator[Part]:
        """What a stretch of time went into, for a request that is admitted and has not ended.

        Args:
            key: the request.
            start_ns, end_ns: the stretch.
        """
        cursor = start_ns
        place = bisect_right(self._ends, start_ns)
        while place < len(self._ran) and cursor < end_ns:
            step = self._ran[place]
            forward_ns = _device_ns(step)[0]
            yield from self._idle(cursor, min(forward_ns, end_ns), step)
            yield from self.step_parts(key, step)
            cursor = max(cursor, self._ends[place])
            place += 1
        if cursor < end_ns:
            waiting = next((step for step in self._not_run if _submit_ns(step) < end_ns), None)
            yield from self._idle(cursor, end_ns, waiting)

    def step_parts(self, key: ReqKey, step: DeviceStep) -> Iterator[Part]:
        """The forward pass and the sampling of a step, as this request sees them."""
        start_ns, end_ns = _device_ns(step)
        cause = self.cause_of(key, step)
        if key not in self._members[step.number] or step.forward_ns is None:
            yield Part(cause, start_ns, end_ns)
            return
        yield Part(cause, start_ns, step.forward_ns[1])
        sampled_from_ns = step.forward_ns[1]
        if step.masks_ns is not None and step.sample_ns is not None:
            yield Part(Cause.MASKS, sampled_from_ns, step.sample_ns[0])
            sampled_from_ns = step.sample_ns[0]
        yield Part(Cause.SAMPLE, sampled_from_ns, end_ns)

    def cause_of(self, key: ReqKey, step: DeviceStep) -> Cause:
        """What the forward pass of a step is to a request."""
        place = self._members[step.number].get(key)
        num_chunks = self._num_chunks[step.number]
        if place is None:
            return Cause.OTHERS_PREFILL if num_chunks else Cause.OTHERS_DECODE
        if step.runs[place].is_prefill:
            return Cause.PREFILL if num_chunks == 1 else Cause.PREFILL_SHARED
        return Cause.DECODE_BESIDE_PREFILL if num_chunks else Cause.DECODE

    def run_of(self, key: ReqKey, step: DeviceStep) -> int | None:
        """The place of a request among the runs of a step."""
        return self._members[step.number].get(key)

    def step_at(self, ns: int) -> DeviceStep | None:
        """The step that the device worked on at a moment."""
        place = bisect_right(self._ends, ns)
        if place < len(self._ran) and _device_ns(self._ran[place])[0] <= ns:
            return self._ran[place]
        return None

    def next_step(self, ns: int) -> DeviceStep | None:
        """The step that the device began with after a moment."""
        place = bisect_right(self._ends, ns)
        return self._ran[place] if place < len(self._ran) else None

    def _idle(self, start_ns: int, end_ns: int, step: DeviceStep | None) -> Iterator[Part]:
        """The device was idle until a step began, or to the end of what is known."""
        if end_ns <= start_ns:
            return
        submitted = end_ns if step is None else min(max(_submit_ns(step), start_ns), end_ns)
        for busy_start, busy_end in self.busy(self.history.scheduler).within(start_ns, submitted):
            yield Part(Cause.SCHEDULE, busy_start, busy_end)
        yield Part(Cause.LAUNCH if step is not None and step.device_ns else Cause.UNEXPLAINED, submitted, end_ns)


def _device_ns(step: DeviceStep) -> SpanNs:
    span = step.device_ns
    return (0, 0) if span is None else span


def _submit_ns(step: DeviceStep) -> int:
    """When the device could begin with a step."""
    if step.submit_ns is not None:
        return step.submit_ns[0]
    return 0 if step.schedule_ns is None else step.schedule_ns[1]
