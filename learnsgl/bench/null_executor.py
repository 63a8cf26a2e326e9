"""An executor that computes nothing, so that what is left of a step is the scheduler: at once, or after a fixed time.

`scheduler.py` and `tracing.py` drive the real scheduler with it. It checks nothing; the fake of the tests does that.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from learnsgl.scheduler.executor import ExecutorInfo, Masks, Step, StepResult, Ticket

TOKEN_ID = 7


@dataclass(frozen=True, slots=True)
class NullTicket:
    """A step in flight.

    Attributes:
        number: the step's.
        num_tokens: tokens that it samples.
        end_ns: when the device is done with it.
    """

    number: int
    num_tokens: int
    end_ns: int


class NullExecutor:
    """Gives every sampled position the same token.

    Args:
        num_pages: pages of KV cache that the scheduler may give out.
        page_size: tokens a page.
        max_model_len: most tokens of one request.
        step_s: seconds that the device works on a step, one step after the other, as a GPU does; `collect` sleeps
            until they are over.
    """

    def __init__(self, num_pages: int, page_size: int, max_model_len: int, step_s: float = 0.0) -> None:
        self.info = ExecutorInfo(
            model="null", device="none", dtype="none", num_pages=num_pages, page_size=page_size,
            max_model_len=max_model_len, vocab_size=50_000, eos_ids=(0,),
        )  # fmt: skip
        self._step_ns = int(step_s * 1e9)
        self._in_flight: deque[NullTicket] = deque()
        self._free_at_ns = 0

    def submit(self, step: Step) -> NullTicket:
        """As `Executor`: the device begins now, or when it is done with the step before."""
        if self._step_ns:
            self._free_at_ns = max(self._free_at_ns, time.monotonic_ns()) + self._step_ns
        ticket = NullTicket(step.number, int(step.wants_token.sum()), self._free_at_ns)
        self._in_flight.append(ticket)
        return ticket

    def sample(self, ticket: Ticket, masks: Masks | None) -> None:
        """As `Executor`: there is nothing to do."""

    def collect(self, ticket: Ticket) -> StepResult:
        """As `Executor`: wait until the device is done."""
        mine = self._in_flight.popleft()
        left_ns = mine.end_ns - time.monotonic_ns() if self._step_ns else 0
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        tokens = np.full(mine.num_tokens, TOKEN_ID, dtype=np.int32)
        begin_ns = mine.end_ns - self._step_ns
        return StepResult(mine.number, tokens, begin_ns, mine.end_ns, mine.end_ns, mine.end_ns)

    def close(self) -> None:
        """As `Executor`: nothing is held."""
