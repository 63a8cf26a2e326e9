"""The steps of a recording: what was in each, what the device did for it, and figures over all of them.

`facts.py` reads them; the claims in `catalogue.py` and `pairs.py` speak of them as `f.steps`.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from learnsgl.trace import events
from learnsgl.trace.checks.base import ints


@dataclass
class Step:
    """One step of the scheduler.

    Attributes:
        chunks: from each request with a chunk of its prompt in the step to the chunk's tokens.
        decodes: requests with one token of their answer in it.
        num_wasted: tokens of answers in it that were computed for requests that had ended.
        submitted_ns, collected_ns: when it was handed to the device, and when its tokens were there.
        device_ns: beginning of its forward pass and end of its sampling; `None` where it never ran.
    """

    chunks: dict[int, int]
    decodes: tuple[int, ...]
    num_wasted: int = 0
    submitted_ns: int | None = None
    collected_ns: int | None = None
    device_ns: tuple[int, int] | None = None


@dataclass
class Steps:
    """All steps, in order.

    Attributes:
        by_number: the steps.
    """

    by_number: dict[int, Step] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.by_number.values())

    @property
    def num(self) -> int:
        """How many there are."""
        return len(self.by_number)

    @property
    def num_with_chunk(self) -> int:
        """Steps with a chunk of a prompt in them."""
        return sum(bool(step.chunks) for step in self)

    @property
    def num_mixed(self) -> int:
        """Steps with both a chunk of a prompt and tokens of answers."""
        return sum(bool(step.chunks and step.decodes) for step in self)

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens of prompts that were computed."""
        return sum(sum(step.chunks.values()) for step in self)

    @property
    def num_wasted(self) -> int:
        """Tokens that were computed for requests that had ended."""
        return sum(step.num_wasted for step in self)

    @property
    def num_ahead(self) -> int:
        """Steps that were handed to the device before the tokens of the step ahead of them were there."""
        pairs = [(before.collected_ns, after.submitted_ns) for before, after in itertools.pairwise(self)]
        return sum(there is not None and handed is not None and handed < there for there, handed in pairs)

    @property
    def largest(self) -> int:
        """Most tokens in one step, of prompts and answers together."""
        return max((sum(step.chunks.values()) + len(step.decodes) for step in self), default=0)

    @property
    def largest_batch(self) -> int:
        """Most answers that one step went on with."""
        return max((len(step.decodes) for step in self), default=0)

    @property
    def most_chunks(self) -> int:
        """Steps that the prompt took which took most."""
        return max(Counter(uid for step in self for uid in step.chunks).values(), default=0)

    @property
    def decode_ms(self) -> float:
        """Median time that the device took for a step of answers alone."""
        spans = [step.device_ns for step in self if step.device_ns is not None and not step.chunks]
        return statistics.median((end - start) / 1e6 for start, end in spans) if spans else 0.0

    @property
    def idle_ms(self) -> float:
        """Median time for which the device waited before a step of answers alone."""
        pairs = [
            (before.device_ns, after.device_ns) for before, after in itertools.pairwise(self) if not after.chunks
        ]  # fmt: skip
        gaps = [after[0] - before[1] for before, after in pairs if before is not None and after is not None]
        return statistics.median(gaps) / 1e6 if gaps else 0.0

    def take(self, event: Any) -> None:
        """Take over what an event of a scheduler says of a step."""
        match event:
            case events.SchedStep():
                runs = list(zip(ints(event.uids, "i8").tolist(), ints(event.lens, "i4").tolist(), strict=True))
                decodes = tuple(uid for uid, _ in runs[event.num_prefill :])
                self.by_number[event.step] = Step(dict(runs[: event.num_prefill]), decodes)
            case events.BatchSubmitted():
                self.by_number[event.step].submitted_ns = event.ns
            case events.BatchCollected():
                self.by_number[event.step].collected_ns = event.ns
            case events.EngineForward():
                self.by_number[event.step].device_ns = event.forward_start_ns, event.sample_end_ns
            case events.SchedCommitted():
                step = self.by_number[event.step]
                step.num_wasted = event.kept[len(step.chunks) :].count(0)
