"""The running requests: those that hold a row of the table, from admission until their pages have gone back.

Everything that a running request holds is taken and given back here: its row, its references on pages, its hold on
the prefix cache, and the pages it was promised. Prefill admits into it, the scheduler grows, finishes and releases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learnsgl.core import FinishReason, Int32Array, Req, ReqKey, Stage
from learnsgl.kvcache.allocator import PageAllocator
from learnsgl.kvcache.base import PrefixCache, PrefixMatch
from learnsgl.message.types import Ending, ErrorInfo
from learnsgl.scheduler.table import Int64Array, ReqTable
from learnsgl.trace.journal import Journal


class RunningReqs:
    """Requests that hold a row.

    Invariant: `num_promised` is never more than the pages that are free or evictable, so `grow` never fails.

    Attributes:
        rows: the row of each running request.
        num_promised: pages that running requests may still ask for.
        released_rows: rows given back since the executor was last told.
    """

    def __init__(self, table: ReqTable, allocator: PageAllocator, cache: PrefixCache, journal: Journal) -> None:
        self.table = table
        self.allocator = allocator
        self.cache = cache
        self._journal = journal
        self.rows: dict[ReqKey, int] = {}
        self.num_promised = 0
        self.released_rows: list[int] = []

    # ------------------------------------------------------------ begin and grow

    def pages_to_end(self, req: Req) -> int:
        """Pages that a request holds at its longest: the last token's KV is never computed."""
        return -(-(req.limit_len - 1) // self.table.page_size)

    @property
    def num_spare(self) -> int:
        """Pages that are free or evictable, and promised to nobody."""
        return self.allocator.num_free + self.cache.num_evictable - self.num_promised

    def num_usable(self, match: PrefixMatch) -> int:
        """Pages that could be promised to a request with this match, which holds some that were evictable."""
        return self.num_spare - match.num_evictable

    def admit(self, req: Req, match: PrefixMatch) -> tuple[int, Int32Array, int]:
        """Give a request a row, its known prefix, and the promise of all other pages that it can need.

        Returns:
            The row; the pages of the prefix, int32; and how many pages are promised.
        """
        node, pages = self.cache.take(match)
        self.allocator.share(pages)
        row = self.table.assign(req, node, pages)
        promised = self.pages_to_end(req) - len(pages)
        self.num_promised += promised
        self.rows[req.key] = row
        return row, pages, promised

    def grow(self, step: int, rows: Int64Array, stops: Int64Array) -> tuple[Int64Array, Int32Array]:
        """Give rows [n] the pages that they lack up to positions `stops` [n], evicting where none are free.

        Returns:
            How many each row got, int64 [n], and the pages, int32, row after row.
        """
        counts = self.table.lacking(rows, stops)
        total = int(counts.sum())
        if total == 0:
            return counts, np.zeros(0, dtype=np.int32)
        if total > self.allocator.num_free:
            self.cache.evict(total - self.allocator.num_free)
        pages = self.allocator.allocate(total)
        is_growing = counts > 0
        growing, new = rows[is_growing], counts[is_growing]
        positions = self.table.append_pages(growing, new, pages)
        self.num_promised -= total
        self._journal.allocated(step, growing, new, positions, pages)
        return counts, pages

    def remember_prompts(self, rows: Int64Array) -> None:
        """Put the computed part of prompts into the cache, for others to share while these still run."""
        table = self.table
        for row in rows.tolist():
            if table.stage[row] != Stage.FINISHED:
                node, length = int(table.node[row]), int(table.committed_len[row])
                token_ids, pages = self.table.token_ids[row, :length], self.table.page_table[row]
                table.node[row] = self.cache.extend(row, node, token_ids, pages, self.num_spare)

    def unfinished_rows(self) -> Int64Array:
        """Rows of requests that have not ended, ascending."""
        return np.flatnonzero(self.table.is_in(Stage.PREFILL) | self.table.is_in(Stage.DECODE))

    # ------------------------------------------------------------ end

    def finish(
        self, step: int, rows: Int64Array, reasons: Sequence[FinishReason], *, num_kept: int | None = None,
        error: ErrorInfo | None = None,
    ) -> list[Ending]:  # fmt: skip
        """End requests. They keep what they hold until `release`; what they were still promised is free to promise.

        Args:
            step: the scheduler's step number.
            rows: rows of requests that have not ended, int64 [n].
            reasons: why each ends, [n].
            num_kept: generated tokens that count; by default all.
            error: what the client is told, with `FinishReason.ERROR`.
        """
        if not len(rows):
            return []
        table = self.table
        reqs = [self.table.req(row) for row in rows.tolist()]
        num_tokens = [int(n) if num_kept is None else num_kept for n in table.num_output[rows]]
        old_stages = table.stage[rows]
        table.stage[rows] = Stage.FINISHED
        self._journal.finished(
            step, [req.key for req in reqs], rows, old_stages, Stage.FINISHED, [r.value for r in reasons], num_tokens
        )
        num_pages = table.num_pages[rows].tolist()
        self.num_promised -= sum(self.pages_to_end(req) - n for req, n in zip(reqs, num_pages, strict=True))
        cached = table.cached_len[rows].tolist()
        return [
            Ending(*req.key, reason, req.prompt_len, num_cached, count, error)
            for req, reason, num_cached, count in zip(reqs, reasons, cached, num_tokens, strict=True)
        ]

    def release(self, step: int, rows: Int64Array) -> None:
        """Give back all that finished requests hold, those of `rows` that no step in flight holds."""
        table = self.table
        done = table.has_ended(rows) & (table.num_in_flight[rows] == 0)
        rows = rows[done]
        if not len(rows):
            return
        values = table.columns[:, rows]
        keys = [self.table.req(row).key for row in rows.tolist()]
        pages = [self.table.pages_of(row) for row in rows.tolist()]
        freed = []
        for row, held in zip(rows.tolist(), pages, strict=True):
            # The last sampled token's KV may not be computed, and the token of a wasted step was never kept.
            known = min(
                int(table.committed_len[row]),
                int(table.prompt_len[row] + table.num_output[row]),
            )
            self.cache.finish(row, int(table.node[row]), self.table.token_ids[row, :known], held)
            freed.append(self.allocator.release(held))
        self._journal.released(step, keys, rows, values, pages, np.concatenate(freed))
        for row, key in zip(rows.tolist(), keys, strict=True):
            self.table.release(row)
            del self.rows[key]
        self.released_rows += rows.tolist()
