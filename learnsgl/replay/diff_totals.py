"""What a whole recording comes to, in numbers that can stand beside those of another.

`diff.py` makes one for each side. Times to first token and gaps are the ledger's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from learnsgl.replay.ledger import Ledger, Ledgers
from learnsgl.replay.ledger_causes import Area, Cause
from learnsgl.replay.ledger_spans import Busy


class Percentiles(NamedTuple):
    """Of some times, in seconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Totals:
    """Numbers of one recording; `None` where it doesn't hold them.

    Attributes:
        num_requests: requests.
        endings: how many ended how.
        duration_s: from the first arrival to the last ending.
        ttft, tpot: time to first token, and time per later token, over requests.
        output_tokens: tokens generated and kept.
        output_tokens_per_s, requests_per_s: over the duration.
        num_steps: steps.
        tokens_per_step: prompt and decode tokens, on average.
        cache_hit_rate: of the prompt tokens of admitted requests, the share that came from the cache.
        waits_s: seconds that all requests together waited in the queue, by cause.
        device_idle_share: of the time in which a request waited or ran in the scheduler, the share without a step on
            the device.
        pages_peak: most pages that were held at once.
    """

    num_requests: int
    endings: dict[str, int]
    duration_s: float
    ttft: Percentiles | None
    tpot: Percentiles | None
    output_tokens: int
    output_tokens_per_s: float | None
    requests_per_s: float | None
    num_steps: int
    tokens_per_step: float | None
    cache_hit_rate: float | None
    waits_s: dict[str, float]
    device_idle_share: float | None
    pages_peak: int | None


def totals_of_run(ledgers: Ledgers) -> Totals:
    """The numbers of one recording."""
    history = ledgers.history
    found = list(ledgers.all())
    reqs = [req for journey in history.journeys.values() for req in journey.choices.values()]
    parts = [list(item.parts) for item in found]
    moments = [ns for its in parts if its for ns in (its[0].start_ns, its[-1].end_ns)]
    duration_s = (max(moments) - min(moments)) / 1e9 if moments else 0.0
    admitted = [req for req in reqs if req.admitted is not None and req.prompt_len]
    prompt_tokens = sum(req.prompt_len or 0 for req in admitted)
    output_tokens = sum(req.num_generated if req.num_generated is not None else len(req.tokens) for req in reqs)
    step_tokens = [sum(run.num_tokens for run in step.runs) for step in history.steps]
    free = [step.num_free_pages for step in history.steps]
    return Totals(
        num_requests=len(found),
        endings=dict(sorted(Counter(item.ending or "none recorded" for item in found).items())),
        duration_s=duration_s,
        ttft=_percentiles([item.ttft_ns / 1e9 for item in found if item.ttft_ns is not None]),
        tpot=_percentiles([tpot for item in found if (tpot := tpot_s(item)) is not None]),
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / duration_s if duration_s else None,
        requests_per_s=len(found) / duration_s if duration_s else None,
        num_steps=len(history.steps),
        tokens_per_step=sum(step_tokens) / len(step_tokens) if step_tokens else None,
        cache_hit_rate=sum(req.cached_len for req in admitted) / prompt_tokens if prompt_tokens else None,
        waits_s=_waits_s(found),
        device_idle_share=_idle_share(ledgers),
        pages_peak=history.engine.num_pages - min(free) if history.engine is not None and free else None,
    )


def tpot_s(item: Ledger) -> float | None:
    """Time per output token after the first."""
    later = sum(len(steps) for steps in item.gap_steps[1:])
    if item.ttft_ns is None or not later:
        return None
    return sum(part.duration_ns for gap in item.gaps for part in gap) / later / 1e9


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    if not values:
        return None
    return Percentiles(*(float(value) for value in np.percentile(values, (50, 90, 99))))


def _waits_s(found: Sequence[Ledger]) -> dict[str, float]:
    sums: Counter[Cause] = Counter()
    for item in found:
        sums.update({cause: ns for cause, ns in item.totals.items() if cause.area is Area.QUEUE})
    return {cause.label: sums[cause] / 1e9 for cause in Cause if cause in sums}


def _idle_share(ledgers: Ledgers) -> float | None:
    history = ledgers.history
    last_ns = max(history.last_ns.values(), default=0)
    there = Busy(
        (req.queued.ns, req.finished.ns if req.finished is not None else last_ns)
        for journey in history.journeys.values()
        for req in journey.choices.values()
        if req.queued is not None
    )
    device = Busy(step.device_ns for step in history.steps if step.device_ns is not None)
    spans = there.within(0, last_ns + 1)
    total = sum(end - start for start, end in spans)
    if not total or not device.within(0, last_ns + 1):
        return None
    busy = sum(end - start for span in spans for start, end in device.within(*span))
    return 1 - busy / total
