"""What overlap scheduling hides: the scheduler's work on the CPU beside the device's steps, with shares as numbers.

`overlap_lanes.py` draws it. Work is hidden while the device computes, and exposed while it doesn't.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from learnsgl.errors import TraceError
from learnsgl.replay.history import History, read_history
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import missing_notes
from learnsgl.viz.spans import Span, common, joined, length, without

CPU_KINDS = ("schedule", "submit", "commit")
"""What the scheduler does for a step, beside waiting for it."""


@dataclass(frozen=True)
class Overlap:
    """The scheduler beside the device, from the first step's scheduling to the last one's end.

    Attributes:
        history: all that happened.
        start_ns, end_ns: what the shares are about.
        busy: when the device computed, or sampled.
        hidden: the scheduler's work meanwhile.
        exposed: the scheduler's work while the device had nothing to do.
        idle: when neither worked: the scheduler waited, or handled messages, which have no spans in the trace.
        notes: what isn't in the trace.
    """

    history: History
    start_ns: int
    end_ns: int
    busy: tuple[Span, ...]
    hidden: tuple[Span, ...]
    exposed: tuple[Span, ...]
    idle: tuple[Span, ...]
    notes: tuple[str, ...]

    @property
    def cpu_ns(self) -> int:
        """The scheduler's work in all."""
        return length(self.hidden) + length(self.exposed)

    @property
    def hidden_share(self) -> float:
        """The part of it that costs nobody time, 0 to 1; 0 where there was none."""
        return length(self.hidden) / self.cpu_ns if self.cpu_ns else 0.0

    @property
    def busy_share(self) -> float:
        """The part of the time in which the device worked, 0 to 1."""
        return length(self.busy) / (self.end_ns - self.start_ns)


def read_overlap(trace: Trace) -> Overlap:
    """Read what a recording's overlap hid.

    Raises:
        TraceError: no step ran, or no step's time on the device is in the trace.
    """
    history = read_history(trace)
    device = [(step.forward_ns[0], step.sample_ns[1]) for step in history.steps if step.forward_ns and step.sample_ns]
    if not device:
        raise TraceError(
            f"{trace.path}: no step's time on the device is recorded, so nothing can be said of overlap; the recording "
            "was cut off before the first step ended"
        )
    own = [work for work in history.work if work.process == history.scheduler and work.kind in CPU_KINDS]
    work = joined((item.start_ns, item.end_ns) for item in own)
    start_ns = min(device[0][0], *(start for start, _ in work))
    end_ns = max(device[-1][1], *(end for _, end in work))
    busy = joined(device)
    exposed = without(work, busy)
    idle = without([(start_ns, end_ns)], joined([*busy, *exposed]))
    notes = [
        "The scheduler's work is to schedule, submit and commit steps; messages that it sends and receives don't count."
    ]
    if not any(item.kind == "submit" for item in own):
        notes.append(
            f"Level {trace.level} has no batch.submitted: the time in which steps are handed to the device is missing "
            "from the scheduler's work."
        )
    notes += missing_notes(trace)
    return Overlap(
        history, start_ns, end_ns, tuple(busy), tuple(common(work, busy)), tuple(exposed), tuple(idle), tuple(notes)
    )


def typical_window(data: Overlap, num_steps: int = 4) -> Span:
    """A few decode steps in a row from the middle of the recording, or whatever steps there are.

    Args:
        data: the recording.
        num_steps: how many steps the window is to hold.
    """
    steps = [step for step in data.history.steps if step.forward_ns and step.sample_ns]
    plain = [place for place, step in enumerate(steps) if not step.chunks and place + num_steps <= len(steps)]
    runs = [place for place in plain if all(not step.chunks for step in steps[place : place + num_steps])]
    full = max((len(steps[place].runs) for place in runs), default=0)
    runs = [place for place in runs if len(steps[place].runs) == full]
    first = runs[len(runs) // 2] if runs else 0
    shown = [span for step in steps[first : first + num_steps] for span in (step.forward_ns, step.sample_ns) if span]
    start_ns, end_ns = min(start for start, _ in shown), max(end for _, end in shown)
    margin = (end_ns - start_ns) // 12
    return max(start_ns - margin, data.start_ns), min(end_ns + margin, data.end_ns)


def handover_window(data: Overlap, window_ns: Span) -> Span | None:
    """The scheduler's work around the moment in a window at which one step follows another on the device.

    Returns:
        Moments a little before and after that work; `None` where no two steps follow each other in the window.
    """
    steps = [step for step in data.history.steps if step.forward_ns and step.sample_ns]
    pairs = [
        (one, other)
        for one, other in itertools.pairwise(steps)
        if one.forward_ns
        and other.sample_ns
        and window_ns[0] <= one.forward_ns[0]
        and other.sample_ns[1] <= window_ns[1]
    ]
    if not pairs:
        return None
    one, other = pairs[len(pairs) // 2]
    if one.forward_ns is None or one.sample_ns is None or other.forward_ns is None or other.sample_ns is None:
        return None
    first, last = sum(one.forward_ns) // 2, sum(other.forward_ns) // 2
    work = common(joined([*data.hidden, *data.exposed]), [(first, last)])
    start_ns = min([one.sample_ns[1], *(start for start, _ in work)])
    end_ns = max([other.forward_ns[0], *(end for _, end in work)])
    margin = max((end_ns - start_ns) // 5, 1_000)
    return start_ns - margin, end_ns + margin
