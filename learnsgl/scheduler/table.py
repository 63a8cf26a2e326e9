"""The request table: one row for each running request, one column for each thing known of it.

Columns are numpy arrays, so that a decode step of 256 requests is a few array operations. Prefill and decode read it
to put a step together; the scheduler moves its lengths on. The executor has a page table and a token pool with the
same rows, kept equal by the steps it is given.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from learnsgl.core import Int32Array, Req, Stage
from learnsgl.trace.digest import RowField

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class ReqTable:
    """Rows of running requests.

    Attributes:
        num_rows: most requests that can run at once.
        columns: int64 [len(RowField), num_rows]; a free row is all zeros.
        uid, choice, stage, prompt_len, limit_len, cached_len, scheduled_len, committed_len, num_output, num_in_flight,
            node, num_pages: these columns by their names (`RowField` says what each is), int64 [num_rows] views.
        page_table: int32 [num_rows, pages of the longest request]; only the first `NUM_PAGES` entries of a row count.
        token_ids: int32 [num_rows, max_model_len]; prompt and committed output of each row.
        ignore_eos, has_stop_ids: bool [num_rows]; what the row's request wants of its end.
        has_grammar: bool [num_rows]; whether only some tokens are allowed.
        num_with_grammar: requests with a grammar.
        wants_prompt_logprobs: bool [num_rows]; whether it wants its prompt's log-probabilities.
        num_with_stop_ids: requests with stop tokens of their own.
        reqs: the request in each row.
    """

    def __init__(self, num_rows: int, max_model_len: int, page_size: int) -> None:
        self.num_rows = num_rows
        self.page_size = page_size
        self.columns: Int64Array = np.zeros((len(RowField), num_rows), dtype=np.int64)
        self.uid, self.choice, self.stage = (self.columns[f] for f in (RowField.UID, RowField.CHOICE, RowField.STAGE))
        self.prompt_len, self.limit_len = self.columns[RowField.PROMPT_LEN], self.columns[RowField.LIMIT_LEN]
        self.cached_len, self.scheduled_len = self.columns[RowField.CACHED_LEN], self.columns[RowField.SCHEDULED_LEN]
        self.committed_len, self.num_output = self.columns[RowField.COMMITTED_LEN], self.columns[RowField.NUM_OUTPUT]
        self.num_in_flight, self.node = self.columns[RowField.NUM_IN_FLIGHT], self.columns[RowField.NODE]
        self.num_pages = self.columns[RowField.NUM_PAGES]
        # Memory that is never touched is never given by the operating system: wide tables cost what is used of them.
        self.page_table: Int32Array = np.zeros((num_rows, -(-max_model_len // page_size)), dtype=np.int32)
        self.token_ids: Int32Array = np.zeros((num_rows, max_model_len), dtype=np.int32)
        self.ignore_eos: BoolArray = np.zeros(num_rows, dtype=np.bool_)
        self.has_stop_ids: BoolArray = np.zeros(num_rows, dtype=np.bool_)
        self.num_with_stop_ids = 0
        self.has_grammar: BoolArray = np.zeros(num_rows, dtype=np.bool_)
        self.num_with_grammar = 0
        self.wants_prompt_logprobs: BoolArray = np.zeros(num_rows, dtype=np.bool_)
        self.reqs: list[Req | None] = [None] * num_rows
        self._free_rows = list(range(num_rows))  # a heap: the lowest free row is given first

    @property
    def num_free_rows(self) -> int:
        """Rows without a request."""
        return len(self._free_rows)

    @property
    def num_used_rows(self) -> int:
        """Rows with a request."""
        return self.num_rows - len(self._free_rows)

    def req(self, row: int) -> Req:
        """The request in a row that is in use."""
        req = self.reqs[row]
        assert req is not None, f"row {row} is free"
        return req

    def assign(self, req: Req, node: int, cached_pages: Int32Array) -> int:
        """Give a request the lowest free row, with the pages that the cache has for it."""
        row = heapq.heappop(self._free_rows)
        cached_len = len(cached_pages) * self.page_size
        values = {
            RowField.PRESENT: 1,
            RowField.UID: req.key.uid,
            RowField.CHOICE: req.key.choice,
            RowField.STAGE: Stage.PREFILL,
            RowField.PROMPT_LEN: req.prompt_len,
            RowField.LIMIT_LEN: req.limit_len,
            RowField.CACHED_LEN: cached_len,
            RowField.SCHEDULED_LEN: cached_len,
            RowField.COMMITTED_LEN: cached_len,
            RowField.NODE: node,
            RowField.NUM_PAGES: len(cached_pages),
        }
        for field, value in values.items():
            self.columns[field, row] = value
        self.page_table[row, : len(cached_pages)] = cached_pages
        self.token_ids[row, : req.prompt_len] = req.prompt_ids
        # A grammar lets an answer end only where it may, and there `ignore_eos` has had its say already.
        self.ignore_eos[row] = req.sampling.ignore_eos and req.matcher is None
        self.has_grammar[row] = req.matcher is not None
        self.num_with_grammar += req.matcher is not None
        self.has_stop_ids[row] = bool(req.sampling.stop_token_ids)
        self.num_with_stop_ids += bool(req.sampling.stop_token_ids)
        self.wants_prompt_logprobs[row] = req.wants_prompt_logprobs
        self.reqs[row] = req
        req.row = row
        return row

    def release(self, row: int) -> None:
        """Make a row free again."""
        self.num_with_stop_ids -= bool(self.req(row).sampling.stop_token_ids)
        self.num_with_grammar -= self.req(row).matcher is not None
        self.req(row).row = None
        self.reqs[row] = None
        self.columns[:, row] = 0
        heapq.heappush(self._free_rows, row)

    def pages_of(self, row: int) -> Int32Array:
        """The row's pages, int32 [num_pages]."""
        pages: Int32Array = self.page_table[row, : int(self.num_pages[row])].copy()
        return pages

    def lacking(self, rows: Int64Array, stops: Int64Array) -> Int64Array:
        """How many pages rows [n] lack, to hold positions up to `stops` [n]: int64 [n]."""
        lacking: Int64Array = np.maximum(-(-stops // self.page_size) - self.num_pages[rows], 0)
        return lacking

    def append_pages(self, rows: Int64Array, counts: Int64Array, pages: Int32Array) -> Int64Array:
        """Append pages to rows, `counts` [n] of at least 1 each. Returns their positions in the rows, int64 [sum]."""
        old: Int64Array = self.num_pages[rows]
        if len(pages) == len(rows):  # one each, as in a decode step
            self.page_table[rows, old] = pages
            self.num_pages[rows] += 1
            return old
        first_of_row = np.repeat(np.cumsum(counts) - counts, counts)
        positions: Int64Array = np.repeat(old, counts) + np.arange(len(pages)) - first_of_row
        self.page_table[np.repeat(rows, counts), positions] = pages
        self.num_pages[rows] += counts
        return positions

    def is_in(self, stage: Stage) -> BoolArray:
        """Which rows are in a stage: bool [num_rows]."""
        in_it: BoolArray = self.stage == stage.value  # numpy takes five times as long for an enum as for a plain int
        return in_it

    def has_ended(self, rows: Int64Array) -> BoolArray:
        """Which of `rows` [n] hold a request that has ended: bool [n]."""
        ended: BoolArray = self.stage[rows] == Stage.FINISHED.value
        return ended

    def ends_with(self, rows: Int64Array, tokens: Int32Array, is_eos: BoolArray) -> BoolArray:
        """Which of `rows` [n] end with their newest tokens [n], by end of sequence or a stop token: bool [n].

        Args:
            is_eos: bool [n]; which of the tokens end a sequence.
        """
        ends: BoolArray = is_eos & ~self.ignore_eos[rows]
        if self.num_with_stop_ids:
            for place in np.flatnonzero(self.has_stop_ids[rows]).tolist():
                ends[place] |= int(tokens[place]) in self.req(int(rows[place])).sampling.stop_token_ids
        return ends

    def with_grammar(self, rows: Int64Array) -> Int64Array:
        """Those of `rows` [n] whose requests have a grammar and have not ended: int64 [m], in their order."""
        found: Int64Array = rows[self.has_grammar[rows] & ~self.has_ended(rows)]
        return found

    def num_prompt_logits(self, rows: Int64Array, starts: Int64Array, stops: Int64Array) -> Int32Array | None:
        """Of how many first positions of runs the next prompt token's log-probability is wanted; all int64 [n].

        Returns:
            `None` where no run wants any.
        """
        wanted = self.wants_prompt_logprobs[rows]
        if not wanted.any():
            return None
        numbers: Int32Array = np.maximum(np.minimum(stops, self.prompt_len[rows] - 1) - starts, 0).astype(np.int32)
        numbers[~wanted] = 0
        return numbers if numbers.any() else None

    def used_rows(self) -> Int64Array:
        """Rows in use, ascending."""
        return np.flatnonzero(self.columns[RowField.PRESENT])
