"""The scheduler's diary: every change of its state passes through here, and becomes an event and a change of digest.

The scheduler, its table, the page allocator and the prefix cache each call the method for what they have just done;
`trace/fold.py` undoes nothing and decides nothing, it replays these same events. Below level `full` there is no
digest and no page or cache event. With tracing off a call costs one `if`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from learnsgl.core import Int32Array, ReqKey
from learnsgl.trace import events
from learnsgl.trace.digest import IntArray, RowField, StateDigest
from learnsgl.trace.recorder import Recorder
from learnsgl.trace.state import NodeFacts, StateReader, digest_of

_LITTLE_ENDIAN = {code: np.dtype(f"<{code}") for code in ("i8", "i4", "u1")}


def as_bytes(values: Sequence[int] | IntArray, dtype: str) -> bytes:
    """Numbers as the little-endian bytes that an event's array field holds; `dtype` is i8, i4 or u1."""
    return np.asarray(values, dtype=_LITTLE_ENDIAN[dtype]).tobytes()


class Journal:
    """What the scheduler's parts tell the trace.

    Attributes:
        steps: whether requests and steps are recorded.
        full: whether everything that changes the state is, and the digest kept.
        digest: the rolling digest of the state; 0 below level `full`.
    """

    def __init__(self, recorder: Recorder, clock: Callable[[], int], run_key: bytes) -> None:
        """Write to `recorder` with moments from `clock`; `run_key` keys the digests of content and is never written."""
        self._recorder = recorder
        self._clock = clock
        self._run_key = run_key
        self._digest = StateDigest()
        self._logical_time = 0
        self.steps = recorder.steps
        self.full = recorder.full

    def follow(self, state: StateReader) -> None:
        """The recorder has begun or ended to record while the scheduler runs: the digest goes on from this state."""
        self.steps, self.full = self._recorder.steps, self._recorder.full
        if self.full:
            self._digest.value = digest_of(state)
            self._logical_time = int(state.read("scalars")["clock"][0])

    @property
    def value(self) -> int | None:
        """The digest now, where one is kept."""
        return self._digest.value if self.full else None

    def content_digest(self, token_ids: Int32Array) -> int:
        """Digest of token ids (int32 [n]) under the run's key: equal content shows, the content doesn't. 63 bits."""
        if not self.full:
            return 0
        data = hashlib.blake2b(token_ids.tobytes(), digest_size=8, key=self._run_key).digest()
        return int.from_bytes(data, "little") >> 1

    # ------------------------------------------------------------ requests

    def queued(self, key: ReqKey, order: int, prompt_len: int, limit_len: int, prompt_digest: int | None) -> None:
        """A request joined the queue."""
        if self.full:
            self._digest.queue(+1, order, key.uid, key.choice, prompt_len, limit_len)
        if self.steps:
            self._recorder.emit(
                events.ReqQueued(self._clock(), key.uid, key.choice, order, prompt_len, limit_len, prompt_digest)
            )

    def refused(self, uid: int, choice: int, code: str, prompt_len: int) -> None:
        """A request was refused before it reached the queue."""
        if self.steps:
            self._recorder.emit(events.ReqRefused(self._clock(), uid, choice, code, prompt_len))

    def constrained(self, uid: int, kind: str, num_bytes: int, start_ns: int, end_ns: int) -> None:
        """A request has a grammar, which was compiled from `start_ns` to `end_ns`."""
        if self.full:
            self._recorder.emit(events.ReqConstrained(self._clock(), uid, kind, num_bytes, start_ns, end_ns))

    def aborting(self, uid: int, choice: int | None, reason: str, num_kept_tokens: int | None, found: bool) -> None:
        """An abort arrived."""
        if self.steps:
            self._recorder.emit(events.ReqAborting(self._clock(), uid, choice, reason, num_kept_tokens, found))

    def finished_waiting(
        self, key: ReqKey, order: int, prompt_len: int, limit_len: int, reason: str, step: int
    ) -> None:
        """A request left the queue without ever running."""
        if self.full:
            self._digest.queue(-1, order, key.uid, key.choice, prompt_len, limit_len)
        self._finished(step, [key], [reason], [0])

    def finished(
        self, step: int, keys: Sequence[ReqKey], rows: IntArray, old_stages: IntArray, new_stage: int,
        reasons: Sequence[str], num_tokens: Sequence[int],
    ) -> None:  # fmt: skip
        """Running requests ended; they keep their rows until no step in flight holds them."""
        if self.full:
            self._digest.rows(RowField.STAGE, rows, new_stage - old_stages)
        self._finished(step, keys, reasons, num_tokens)

    def _finished(self, step: int, keys: Sequence[ReqKey], reasons: Sequence[str], num_tokens: Sequence[int]) -> None:
        if self.steps:
            self._recorder.emit(
                events.ReqFinished(
                    self._clock(), step, as_bytes([k.uid for k in keys], "i8"),
                    as_bytes([k.choice for k in keys], "i4"), list(reasons), as_bytes(num_tokens, "i4"),
                )
            )  # fmt: skip

    def admitted(
        self, step: int, keys: Sequence[ReqKey], orders: Sequence[int], rows: IntArray, values: IntArray,
        cached_pages: Sequence[Int32Array], promised: Sequence[int],
    ) -> None:  # fmt: skip
        """Requests left the queue for rows of the table; `values` is int64 [len(RowField), n], as the rows are now."""
        if self.full:
            for i, (key, order, row) in enumerate(zip(keys, orders, rows, strict=True)):
                column = values[:, i]
                lens = int(column[RowField.PROMPT_LEN]), int(column[RowField.LIMIT_LEN])
                self._digest.queue(-1, order, key.uid, key.choice, *lens)
                self._digest.whole_row(+1, int(row), column)
                self._row_pages(+1, int(row), cached_pages[i])
        if self.steps:
            self._recorder.emit(
                events.SchedAdmitted(
                    self._clock(), step, as_bytes(values[RowField.UID], "i8"), as_bytes(values[RowField.CHOICE], "i4"),
                    as_bytes(rows, "i4"), as_bytes(values[RowField.CACHED_LEN], "i4"),
                    as_bytes(values[RowField.NODE], "i8"), as_bytes(promised, "i4"),
                )
            )  # fmt: skip

    def blocked(
        self, step: int, key: ReqKey, reason: str, num_behind: int, needed: int, free: int, evictable: int,
        promised: int, other_uid: int | None,
    ) -> None:  # fmt: skip
        """A candidate was looked at and not admitted."""
        if self.steps:
            self._recorder.emit(
                events.SchedBlocked(
                    self._clock(), step, key.uid, key.choice, reason, num_behind, needed, free, evictable, promised,
                    other_uid,
                )
            )  # fmt: skip

    def _row_pages(self, sign: int, row: int, pages: Int32Array) -> None:
        self._digest.refs(sign, pages)
        self._digest.table(sign, np.full(len(pages), row), np.arange(len(pages)), pages)

    def released(
        self, step: int, keys: Sequence[ReqKey], rows: IntArray, values: IntArray, pages: Sequence[Int32Array],
        freed: Int32Array,
    ) -> None:  # fmt: skip
        """Rows were given back; `values` is int64 [len(RowField), n], as they were; `freed` pages are free now."""
        if self.full:
            for i, row in enumerate(rows):
                self._digest.whole_row(-1, int(row), values[:, i])
                self._row_pages(-1, int(row), pages[i])
            self._recorder.emit(
                events.ReqReleased(
                    self._clock(), step, as_bytes([k.uid for k in keys], "i8"),
                    as_bytes([k.choice for k in keys], "i4"), as_bytes(rows, "i4"), as_bytes(freed, "i4"),
                )
            )  # fmt: skip

    # ------------------------------------------------------------ steps

    def stepped(
        self, step: int, start_ns: int, uids: IntArray, choices: IntArray, rows: IntArray, starts: IntArray,
        lens: IntArray, stage_deltas: IntArray, num_prefill: int, num_waiting: int, num_free_pages: int,
    ) -> None:  # fmt: skip
        """A step was submitted: the lengths of its rows moved on."""
        if self.full:
            self._digest.scalar(0, 1)
            self._digest.rows(RowField.SCHEDULED_LEN, rows, lens)
            self._digest.rows(RowField.NUM_IN_FLIGHT, rows, 1)
            if stage_deltas.any():
                self._digest.rows(RowField.STAGE, rows, stage_deltas)
        if self.steps:
            self._recorder.emit(
                events.SchedStep(
                    self._clock(), step, start_ns, as_bytes(uids, "i8"), as_bytes(choices, "i4"),
                    as_bytes(starts, "i4"), as_bytes(lens, "i4"), num_prefill, num_waiting, num_free_pages, self.value,
                )
            )  # fmt: skip

    def submitted(self, step: int, start_ns: int) -> None:
        """The executor has taken a step."""
        if self.full:
            self._recorder.emit(events.BatchSubmitted(self._clock(), step, start_ns))

    def masked(self, step: int, start_ns: int, num_rows: int) -> None:
        """The masks of a step's constrained requests were computed; then its sampling was queued."""
        if self.full:
            self._recorder.emit(events.BatchMasked(self._clock(), step, start_ns, num_rows))

    def collected(
        self, step: int, start_ns: int, forward: tuple[int, int], sample: tuple[int, int], *,
        launch_ns: int | None = None, uncertainty_ns: int = 0, graph_size: int | None = None,
    ) -> None:  # fmt: skip
        """The executor has given a step's tokens; `forward` and `sample` are when the device worked on it."""
        if self.full:
            self._recorder.emit(events.BatchCollected(self._clock(), step, start_ns))
        if self.steps:
            self._recorder.emit(
                events.EngineForward(
                    self._clock(), step, *forward, *sample, launch_ns, uncertainty_ns, graph_size
                )
            )  # fmt: skip

    def anchored(self, host_ns: int, uncertainty_ns: int, rate_ppb: int, rate_uncertainty_ppb: int) -> None:
        """The device's clock was compared with the host's."""
        if self.steps:
            self._recorder.emit(
                events.ClockAnchor(self._clock(), host_ns, uncertainty_ns, rate_ppb, rate_uncertainty_ppb)
            )

    def committed(
        self, step: int, start_ns: int, uids: IntArray, choices: IntArray, rows: IntArray, lens: IntArray,
        kept: IntArray,
    ) -> None:  # fmt: skip
        """A step's result was taken over; `kept` [n] is 1 where a row got a token. Endings and releases follow."""
        if self.full:
            self._digest.rows(RowField.COMMITTED_LEN, rows, lens)
            self._digest.rows(RowField.NUM_OUTPUT, rows, kept)
            self._digest.rows(RowField.NUM_IN_FLIGHT, rows, -1)
        if self.steps:
            self._recorder.emit(
                events.SchedCommitted(
                    self._clock(), step, start_ns, as_bytes(uids, "i8"), as_bytes(choices, "i4"),
                    as_bytes(kept, "u1"), self.value,
                )
            )  # fmt: skip

    def idle(self) -> None:
        """Nothing is left to run, and nothing waits."""
        if self.full:
            self._recorder.emit(events.SchedIdle(self._clock(), self.value))

    # ------------------------------------------------------------ pages

    def allocated(self, step: int, rows: IntArray, counts: IntArray, positions: IntArray, pages: Int32Array) -> None:
        """Free pages were appended to rows [n] of the page table, `counts` [n] each, at `positions` [sum(counts)]."""
        if self.full:
            self._digest.rows(RowField.NUM_PAGES, rows, counts)
            self._digest.refs(+1, pages)
            self._digest.table(+1, np.repeat(rows, counts), positions, pages)
            self._recorder.emit(
                events.PageAllocated(
                    self._clock(), step, as_bytes(rows, "i4"), as_bytes(counts, "i4"), as_bytes(pages, "i4")
                )
            )

    # ------------------------------------------------------------ the prefix cache

    def _tick(self, clock: int) -> None:
        self._digest.scalar(1, clock - self._logical_time)
        self._logical_time = clock

    def touched(self, node: int, clock: int, path: Sequence[tuple[int, int]]) -> None:
        """The path up from `node` was used at logical time `clock`; `path` holds (node, last use before)."""
        if self.full:
            self._tick(clock)
            for step_node, last_use in path:
                self._digest.node_use(step_node, clock - last_use)
            self._recorder.emit(events.CacheTouched(self._clock(), node, clock))

    def locked(self, node: int, delta: int, path: Sequence[int]) -> None:
        """The nodes of the path up from `node` were locked (+1) or unlocked (-1) once more."""
        if self.full:
            for step_node in path:
                self._digest.node_lock(step_node, delta)
            self._recorder.emit(events.CacheLocked(self._clock(), node, delta))

    def split(self, upper: NodeFacts, lower: NodeFacts, lower_before: NodeFacts) -> None:
        """`lower_before` was cut into `upper` (new) and `lower` (which keeps its id)."""
        if self.full:
            self._digest.node(-1, *lower_before)
            self._digest.node(+1, *lower)
            self._digest.node(+1, *upper)
            self._recorder.emit(
                events.CacheSplit(self._clock(), lower.node, upper.node, len(upper.pages), upper.digest, lower.digest)
            )

    def inserted(self, leaf: NodeFacts, row: int) -> None:
        """A leaf was added, with pages of the request in `row`; the tree takes a reference on each."""
        if self.full:
            self._tick(leaf.last_use)
            self._digest.node(+1, *leaf)
            self._digest.refs(+1, leaf.pages)
            self._recorder.emit(
                events.CacheInserted(
                    self._clock(), leaf.node, leaf.parent, as_bytes(leaf.pages, "i4"), leaf.last_use, leaf.digest, row
                )
            )

    def moved(self, row: int, old_node: int, node: int, between: Sequence[int]) -> None:
        """The lock of the request in `row` moved from `old_node` down to `node`; `between` are newly locked."""
        if self.full:
            for step_node in between:
                self._digest.node_lock(step_node, +1)
            self._digest.rows(RowField.NODE, np.array([row]), node - old_node)
            self._recorder.emit(events.CacheMoved(self._clock(), row, node))

    def evicted(self, leaves: Sequence[NodeFacts]) -> None:
        """Leaves were removed in this order, and their pages given back."""
        if self.full and leaves:
            pages = np.concatenate([leaf.pages for leaf in leaves])
            for leaf in leaves:
                self._digest.node(-1, *leaf)
            self._digest.refs(-1, pages)
            self._recorder.emit(
                events.CacheEvicted(self._clock(), as_bytes([n.node for n in leaves], "i8"), as_bytes(pages, "i4"))
            )
