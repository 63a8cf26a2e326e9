"""A step between its submission and its result, and the masks under which it is sampled. The scheduler makes both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from learnsgl.core import FinishReason
from learnsgl.message.types import Ending
from learnsgl.scheduler.executor import Masks, Ticket
from learnsgl.scheduler.grammar_matcher import compute_masks, failure
from learnsgl.scheduler.running import RunningReqs
from learnsgl.scheduler.table import BoolArray, Int64Array, ReqTable
from learnsgl.trace.journal import Journal


@dataclass(frozen=True, slots=True)
class InFlight:
    """A submitted step, and what is needed to take its result over.

    Attributes:
        ticket: the executor's name for it.
        rows: table rows of its runs, int64 [n].
        uids, choices: their requests, int64 [n].
        lens: tokens of each run, int64 [n].
        wants_token: which of them get a token, bool [n].
        num_prefill: the first so many are chunks of prompts.
    """

    ticket: Ticket
    rows: Int64Array
    uids: Int64Array
    choices: Int64Array
    lens: Int64Array
    wants_token: BoolArray
    num_prefill: int

    @property
    def sampled_rows(self) -> Int64Array:
        """Rows that get a token: int64 [m]."""
        return self.rows[self.wants_token]


def awaits_tokens(step: InFlight, table: ReqTable) -> bool:
    """Whether the masks of a step that was just submitted hang on tokens of a step before it."""
    if not table.num_with_grammar:
        return False
    return bool((table.num_in_flight[table.with_grammar(step.sampled_rows)] > 1).any())


def masks_of(
    step: InFlight, running: RunningReqs, journal: Journal, clock: Callable[[], int]
) -> tuple[Masks | None, list[Ending]]:
    """The masks of a step's constrained requests, all of whose tokens are committed.

    Returns:
        `None` where it has no such request; and the endings of requests whose matchers have failed.
    """
    table = running.table
    if not table.num_with_grammar:
        return None, []
    rows = table.with_grammar(step.sampled_rows)
    if not len(rows):
        return None, []
    start_ns, number = clock(), step.ticket.number
    masks, failed = compute_masks([table.req(row) for row in rows.tolist()], rows, table.num_output[rows])
    journal.masked(number, start_ns, len(rows))
    reasons = [FinishReason.ERROR] * len(failed)
    return masks, running.finish(number, failed, reasons, error=failure())
