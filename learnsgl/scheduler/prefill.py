"""Prefill: cutting prompts into chunks, and admitting requests from the queue.

The scheduler asks `PrefillManager.schedule` for the prompt tokens of each step. Requests are admitted first come,
first served; one is admitted only when every page that it can ever need is free, evictable, or shared with the cache
and not promised to others, so that no running request ever has to be thrown out.

Source: chunked prefill as in Agrawal et al., "Sarathi-Serve" (2024), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from learnsgl.core import MAX_CHOICES, Int32Array, Req, ReqKey, Stage
from learnsgl.kvcache.base import PrefixMatch
from learnsgl.kvcache.radix import common_prefix
from learnsgl.scheduler.executor import Admission
from learnsgl.scheduler.running import RunningReqs
from learnsgl.trace.journal import Journal

MAX_LOGPROB_TOKENS = 128
"""Most prompt tokens of a step that each want their logits, which are as long as the vocabulary."""
MAX_PASSED_OVER = 32
"""Requests that may be passed over in one step because they wait for a shared prefix; more would cost the step."""


class _Waiting(NamedTuple):
    """A request that waits for another one's prefix; its other choices stand behind it in the queue."""

    uid: int
    match: PrefixMatch
    other_uid: int | None


@dataclass(slots=True)
class Run:
    """Tokens of one row in a step: positions `start` up to `start + length`."""

    row: int
    start: int
    length: int


@dataclass(slots=True)
class Admitted:
    """Requests that were admitted in one step, for the trace and the executor."""

    reqs: list[Req] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    pages: list[Int32Array] = field(default_factory=list)
    promised: list[int] = field(default_factory=list)

    def for_executor(self) -> tuple[Admission, ...]:
        """What the executor is told of them."""
        return tuple(
            Admission(req.key, row, req.prompt_ids, req.sampling, pages)
            for req, row, pages in zip(self.reqs, self.rows, self.pages, strict=True)
        )


class PrefillManager:
    """The queue, and the prompts that are being computed.

    Attributes:
        queue: waiting requests by key, in the order of their arrival.
        num_prompt_tokens: tokens of all prompts that were admitted.
        num_cached_tokens: of these, tokens that were in the cache.
    """

    def __init__(self, running: RunningReqs, journal: Journal, prefix_wait_tokens: int) -> None:
        self._running = running
        self._table = running.table
        self._cache = running.cache
        self._journal = journal
        self._prefix_wait_tokens = prefix_wait_tokens
        self.queue: dict[ReqKey, Req] = {}
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self._num_logprob_tokens = 0
        """Tokens of the step's runs of which each wants its logits."""

    def schedule(self, step: int, budget: int) -> tuple[list[Run], Admitted]:
        """Prompt tokens for one step.

        Args:
            step: the step's number.
            budget: most prompt tokens in it; 0 where the policy gave the step to running answers.

        Returns:
            A run for each prompt that goes on or begins, and the requests that were admitted for it.
        """
        self._num_logprob_tokens = 0
        is_decode_step = budget == 0
        runs = self._continue_chunks(budget)
        budget -= sum(run.length for run in runs)
        admitted = Admitted()
        num_passed_over = 0
        num_waiting = len(self.queue)
        waiting: _Waiting | None = None
        for place, req in enumerate(self._candidates()):
            if waiting is not None and waiting.uid == req.key.uid:  # the prompt is the same, and so is the reason
                self._block(step, req, waiting.match, "prefix", num_waiting - 1 - place, waiting.other_uid)
                continue
            match = self._find(req)
            other_uid = self._computes_shared_prefix(req, match)
            reason = "prefix" if other_uid is not None else self._obstacle(req, match, budget)
            if reason == "budget" and is_decode_step:
                reason = "policy"
            if reason is not None:
                self._block(step, req, match, reason, num_waiting - 1 - place, other_uid)
                num_passed_over += 1
                if reason == "prefix" and num_passed_over <= MAX_PASSED_OVER:
                    waiting = _Waiting(req.key.uid, match, other_uid)
                    continue  # its turn comes when the prefix is there; others need not wait for that
                break
            row = self._admit(req, match, admitted)
            start = len(admitted.pages[-1]) * self._table.page_size
            length = min(req.prompt_len - start, budget, self._longest_run(req))
            runs.append(Run(row, start, length))
            self._num_logprob_tokens += length if req.wants_prompt_logprobs else 0
            budget -= length
        self._trace_admissions(step, admitted)
        return runs, admitted

    def _candidates(self) -> list[Req]:
        """The head of the queue, as far as one step can look at it."""
        return list(islice(self.queue.values(), self._table.num_free_rows + MAX_PASSED_OVER + MAX_CHOICES))

    def _longest_run(self, req: Req) -> int:
        """Most prompt tokens of a request that the step can take now, whatever its budget."""
        return MAX_LOGPROB_TOKENS - self._num_logprob_tokens if req.wants_prompt_logprobs else req.prompt_len

    def _remaining(self, row: int) -> int:
        """Prompt tokens of a row that no step has yet."""
        table = self._table
        return int(table.prompt_len[row] - table.scheduled_len[row])

    def _continue_chunks(self, budget: int) -> list[Run]:
        """The next chunks of prompts that have begun, in the order of their arrival."""
        rows = np.flatnonzero(self._table.is_in(Stage.PREFILL)).tolist()
        runs = []
        for row in sorted(rows, key=lambda row: self._table.req(row).order):
            if budget == 0:
                break
            length = min(self._remaining(row), budget, self._longest_run(self._table.req(row)))
            if length == 0:
                continue
            runs.append(Run(row, int(self._table.scheduled_len[row]), length))
            self._num_logprob_tokens += length if self._table.wants_prompt_logprobs[row] else 0
            budget -= length
        return runs

    # ------------------------------------------------------------ admission

    def _find(self, req: Req) -> PrefixMatch:
        """What the cache has of a prompt that the request can use."""
        # At least one token must be computed, for its logits; and every one where each wants its log-probability.
        num_usable = 0 if req.wants_prompt_logprobs else req.prompt_len - 1
        return self._cache.find(req.prompt_ids[:num_usable])

    def _obstacle(self, req: Req, match: PrefixMatch, budget: int) -> str | None:
        """Why the request can't be admitted now, or `None`."""
        if self._table.num_free_rows == 0:
            return "rows"
        if budget == 0 or self._longest_run(req) == 0:
            return "budget"
        if self._running.pages_to_end(req) - match.num_pages > self._running.num_usable(match):
            return "pages"
        return None

    def _computes_shared_prefix(self, req: Req, match: PrefixMatch) -> int | None:
        """The request that is computing a prefix which this one shares and the cache doesn't have yet.

        Choices of one request wait for their common prompt whatever it saves, others only where it saves enough.
        """
        if not self._cache.shares or req.wants_prompt_logprobs:
            return None
        table = self._table
        computing = (table.committed_len < table.prompt_len) & ~table.is_in(Stage.FINISHED)
        known = match.num_pages * self._table.page_size
        for row in np.flatnonzero(computing).tolist():
            other = self._table.req(row)
            shared = min(common_prefix(other.prompt_ids, req.prompt_ids), req.prompt_len - 1)
            shared -= shared % self._table.page_size
            enough = 1 if other.key.uid == req.key.uid else self._prefix_wait_tokens
            if shared - known >= enough:
                return other.key.uid
        return None

    def _admit(self, req: Req, match: PrefixMatch, admitted: Admitted) -> int:
        """Move a request from the queue to a row."""
        del self.queue[req.key]
        row, pages, promised = self._running.admit(req, match)
        self.num_prompt_tokens += req.prompt_len
        self.num_cached_tokens += len(pages) * self._table.page_size
        admitted.reqs.append(req)
        admitted.rows.append(row)
        admitted.pages.append(pages)
        admitted.promised.append(promised)
        return row

    def _trace_admissions(self, step: int, admitted: Admitted) -> None:
        if admitted.reqs:
            rows = np.array(admitted.rows)
            self._journal.admitted(
                step, [r.key for r in admitted.reqs], [r.order for r in admitted.reqs], rows,
                self._table.columns[:, rows], admitted.pages, admitted.promised,
            )  # fmt: skip

    def _block(
        self, step: int, req: Req, match: PrefixMatch, reason: str, num_behind: int, other_uid: int | None
    ) -> None:
        """Trace why a request waits; again only when the reason has changed."""
        if req.blocked_by == reason:
            return
        req.blocked_by = reason
        needed = self._running.pages_to_end(req) - match.num_pages
        self._journal.blocked(
            step, req.key, reason, num_behind, needed, self._running.allocator.num_free,
            self._cache.num_evictable - match.num_evictable, self._running.num_promised, other_uid,
        )  # fmt: skip
