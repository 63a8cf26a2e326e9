"""The fold: the scheduler's state rebuilt from its events alone, checked against every digest and keyframe.

`learnsgl trace verify` runs it over whole traces, and the replay asks it for the state at a moment. It decides
nothing: each handler does to a `SchedulerState` what the event says was done. Where a trace begins in the middle
(its first file was rotated away, or recording began late), the state is unknown until the first keyframe that was
written at once, without another event between its slices; until then nothing is applied or checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from learnsgl.core import Stage
from learnsgl.errors import TraceViolation
from learnsgl.trace import events
from learnsgl.trace.digest import IntArray, RowField, StateDigest
from learnsgl.trace.events import Event
from learnsgl.trace.state import Int64Array, NodeFacts, Queued, SchedulerState, digest_of

Key = tuple[int, int]
_LITTLE_ENDIAN = {code: np.dtype(code).newbyteorder("<") for code in ("i8", "i4", "u1")}


def numbers(data: bytes, dtype: str) -> Int64Array:
    """An event's array field as int64 [n]; `dtype` is i8, i4 or u1."""
    return np.frombuffer(data, dtype=_LITTLE_ENDIAN[dtype]).astype(np.int64)


class Fold:
    """Applies the events of one scheduler process in order.

    Attributes:
        state: the state after the last applied event.
        is_known: whether the state is known: from the start, or since the first complete keyframe.
        num_digests: digests that were met.
        num_keyframes: complete keyframes that were met.
    """

    def __init__(self, *, from_start: bool = True, digest: StateDigest | None = None) -> None:
        """Begin with an empty state, or (`from_start=False`) an unknown one; `digest` goes on from another fold's."""
        self.state = SchedulerState()
        self.is_known = from_start
        self.num_digests = 0
        self.num_keyframes = 0
        self._digest = digest or StateDigest()
        self._rows: dict[Key, int] = {}
        self._in_flight: dict[int, _Submitted] = {}
        self._records_state = True
        self._next_slice: tuple[int, int] | None = None
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            events.TraceBegin: self._on_begin,
            events.EngineReady: self._on_engine_ready,
            events.ReqQueued: self._on_queued,
            events.ReqFinished: self._on_finished,
            events.ReqReleased: self._on_released,
            events.SchedAdmitted: self._on_admitted,
            events.SchedStep: self._on_step,
            events.SchedCommitted: self._on_committed,
            events.SchedIdle: self._check_digest,
            events.PageAllocated: self._on_allocated,
            events.CacheTouched: self._on_touched,
            events.CacheLocked: self._on_locked,
            events.CacheSplit: self._on_split,
            events.CacheInserted: self._on_inserted,
            events.CacheEvicted: self._on_evicted,
            events.CacheMoved: self._on_moved,
            events.TraceKeyframe: self._on_keyframe,
        }

    def apply(self, event: Event) -> None:
        """Apply one event.

        Raises:
            TraceViolation: the event can't follow what came before, or a digest or keyframe isn't met.
        """
        handler = self._handlers.get(type(event))
        if handler is None or not self._records_state:
            return
        if not self.is_known:
            self._look_for_entrance(event)
            return
        try:
            handler(event)
        except (KeyError, IndexError, ValueError) as error:
            raise TraceViolation(f"it is about {error}, which isn't there") from None

    def copy(self) -> Fold:
        """A fold that goes on from here by itself, without changing this one."""
        twin = Fold(from_start=self.is_known, digest=self._digest.copy())
        twin.state = self.state.copy()
        twin.num_digests, twin.num_keyframes = self.num_digests, self.num_keyframes
        twin._rows, twin._in_flight = dict(self._rows), dict(self._in_flight)
        twin._records_state, twin._next_slice = self._records_state, self._next_slice
        return twin

    def finish(self) -> None:
        """The stream has ended: what must hold at the end.

        Raises:
            TraceViolation: pages aren't conserved.
        """
        if self.is_known and self._records_state:
            self._check_pages()

    # ------------------------------------------------------------ checks

    def _require(self, holds: bool, violation: str) -> None:
        if not holds:
            raise TraceViolation(violation)

    def _check_digest(self, event: Any) -> None:
        if event.digest is not None:
            self._require(
                event.digest == self._digest.value,
                f"the state folded from the events has digest {self._digest.value:016x}, and the scheduler's was "
                f"{event.digest:016x}: something changed that is not in the trace",
            )
            self.num_digests += 1

    def _check_pages(self) -> None:
        """Each page's references are the rows and nodes that hold it."""
        state = self.state
        pages = [*map(state.pages_of, state.used_rows()), *(node.pages for node in state.nodes.values())]
        held = np.bincount(np.concatenate(pages) if pages else [], minlength=state.num_pages)
        wrong = np.flatnonzero(held != self.state.refs)
        if len(wrong):
            page = int(wrong[0])
            self._require(False, f"page {page} is held {held[page]} times, and has {self.state.refs[page]} references")

    def _take(self, pages: IntArray) -> None:
        self.state.refs[pages] += 1
        self._digest.refs(+1, pages)

    def _give_back(self, pages: IntArray) -> IntArray:
        """Take a reference off each page; returns those that are free now."""
        refs = self.state.refs
        self._require(bool((refs[pages] > 0).all()), "a page is given back that nobody holds")
        refs[pages] -= 1
        self._digest.refs(-1, pages)
        freed: IntArray = pages[refs[pages] == 0]
        return freed

    # ------------------------------------------------------------ beginnings

    def _on_begin(self, event: events.TraceBegin) -> None:
        self._records_state = event.level not in ("off", "steps")
        self.is_known = not event.late

    def _on_engine_ready(self, event: events.EngineReady) -> None:
        self.state.resize(event.num_rows, event.num_pages)

    def _look_for_entrance(self, event: Event) -> None:
        """The state is unknown: load the slices of a keyframe that follow each other without another event between."""
        if not isinstance(event, events.TraceKeyframe):
            self._next_slice = None
            return
        columns = {name: numbers(data, "i8") for name, data in event.columns.items()}
        if event.index == 0:
            self.state = SchedulerState()
            self.state.resize(int(columns["num_rows"][0]), int(columns["num_pages"][0]))
        elif self._next_slice != (event.keyframe, event.index):
            return
        self._next_slice = event.keyframe, event.index + 1
        self.state.load(event.part, event.start, event.stop, columns)
        if event.last:
            self.is_known = True
            self.num_keyframes += 1
            self._digest.value = digest_of(self.state)
            used = np.flatnonzero(self.state.rows[RowField.PRESENT])
            uids, choices = self.state.rows[RowField.UID, used], self.state.rows[RowField.CHOICE, used]
            self._rows = dict(zip(zip(uids.tolist(), choices.tolist(), strict=True), used.tolist(), strict=True))

    # ------------------------------------------------------------ requests

    def _on_queued(self, event: events.ReqQueued) -> None:
        queued = Queued(event.order, event.uid, event.choice, event.prompt_len, event.limit_len)
        self._require(event.order not in self.state.queue, f"arrival number {event.order} is in the queue already")
        self.state.queue[event.order] = queued
        self._digest.queue(+1, event.order, event.uid, event.choice, event.prompt_len, event.limit_len)

    def _leave_queue(self, key: Key) -> Queued:
        for order, queued in self.state.queue.items():
            if (queued.uid, queued.choice) == key:
                del self.state.queue[order]
                self._digest.queue(-1, order, *key, queued.prompt_len, queued.limit_len)
                return queued
        raise KeyError(f"request {key[0]}.{key[1]} in the queue")

    def _on_admitted(self, event: events.SchedAdmitted) -> None:
        rows, nodes = numbers(event.rows, "i4"), numbers(event.nodes, "i8")
        cached = numbers(event.cached_lens, "i4")
        for i, key in enumerate(_keys(event)):
            row = int(rows[i])
            self._require(not self.state.rows[RowField.PRESENT, row], f"row {row} is in use already")
            queued = self._leave_queue(key)
            path = self.state.path(int(nodes[i]))
            pages = np.concatenate([node.pages for node in path]) if path else np.zeros(0, dtype=np.int32)
            self._rows[key] = row
            values = {
                RowField.PRESENT: 1, RowField.UID: key[0], RowField.CHOICE: key[1], RowField.STAGE: Stage.PREFILL,
                RowField.PROMPT_LEN: queued.prompt_len, RowField.LIMIT_LEN: queued.limit_len,
                RowField.CACHED_LEN: cached[i], RowField.SCHEDULED_LEN: cached[i], RowField.COMMITTED_LEN: cached[i],
                RowField.NODE: nodes[i], RowField.NUM_PAGES: len(pages),
            }  # fmt: skip
            self.state.rows[list(values), row] = list(values.values())
            self._digest.whole_row(+1, row, self.state.rows[:, row])
            self.state.reserve(len(pages))
            self.state.page_table[row, : len(pages)] = pages
            self._digest.table(+1, np.full(len(pages), row), np.arange(len(pages)), pages)
            self._take(pages)

    def _on_finished(self, event: events.ReqFinished) -> None:
        for key in _keys(event):
            row = self._rows.get(key)
            if row is None:
                self._leave_queue(key)
            else:
                index = np.array([row])
                self._digest.rows(RowField.STAGE, index, Stage.FINISHED - self.state.rows[RowField.STAGE, index])
                self.state.rows[RowField.STAGE, row] = Stage.FINISHED

    def _on_released(self, event: events.ReqReleased) -> None:
        freed = [np.zeros(0, dtype=np.int32)]
        for key, row in zip(_keys(event), numbers(event.rows, "i4").tolist(), strict=True):
            self._require(self._rows.get(key) == row, f"request {key[0]}.{key[1]} doesn't hold row {row}")
            values = self.state.rows[:, row]
            self._require(values[RowField.STAGE] == Stage.FINISHED, f"row {row} is released before its request ended")
            self._require(values[RowField.NUM_IN_FLIGHT] == 0, f"row {row} is released while a step holds it")
            self._digest.whole_row(-1, row, values)
            pages = self.state.pages_of(row)
            self._digest.table(-1, np.full(len(pages), row), np.arange(len(pages)), pages)
            freed.append(self._give_back(pages))
            self.state.rows[:, row] = 0
            del self._rows[key]
        self._require(
            np.array_equal(np.sort(np.concatenate(freed)), np.sort(numbers(event.freed, "i4"))),
            "the pages that it frees are not those that nobody holds any more",
        )

    # ------------------------------------------------------------ steps

    def _on_step(self, event: events.SchedStep) -> None:
        self._require(event.step == self.state.step + 1, f"step {event.step} follows step {self.state.step}")
        rows, lens = self._rows_of(event), numbers(event.lens, "i4")
        self._in_flight[event.step] = _Submitted(event.uids, event.choices, rows, lens)
        self._digest.scalar(0, event.step - self.state.step)
        self.state.step = event.step
        columns = self.state.rows
        starts = numbers(event.starts, "i4")
        self._require(
            bool((columns[RowField.SCHEDULED_LEN][rows] == starts).all()),
            "a run doesn't start where the one before it ended",
        )
        self._add_to_rows(RowField.SCHEDULED_LEN, rows, lens)
        self._add_to_rows(RowField.NUM_IN_FLIGHT, rows, 1)
        done = starts + lens >= columns[RowField.PROMPT_LEN][rows]
        stages = np.where(done, int(Stage.DECODE), int(Stage.PREFILL)) - columns[RowField.STAGE][rows]
        if stages.any():
            self._add_to_rows(RowField.STAGE, rows, stages)
        self._check_digest(event)

    def _on_committed(self, event: events.SchedCommitted) -> None:
        submitted = self._in_flight.pop(event.step, None) or self._in_flight_at_entrance(event)
        self._require(
            (submitted.uids, submitted.choices) == (event.uids, event.choices),
            f"step {event.step} commits other requests than it ran",
        )
        self._add_to_rows(RowField.COMMITTED_LEN, submitted.rows, submitted.lens)
        self._add_to_rows(RowField.NUM_OUTPUT, submitted.rows, numbers(event.kept, "u1"))
        self._add_to_rows(RowField.NUM_IN_FLIGHT, submitted.rows, -1)
        self._check_digest(event)

    def _in_flight_at_entrance(self, event: events.SchedCommitted) -> _Submitted:
        """A step that was submitted before the trace was entered: its runs are what is neither committed nor newer."""
        pending = self.state.rows[RowField.SCHEDULED_LEN] - self.state.rows[RowField.COMMITTED_LEN]
        for newer in self._in_flight.values():
            pending[newer.rows] -= newer.lens
        rows = self._rows_of(event)
        return _Submitted(event.uids, event.choices, rows, pending[rows])

    def _rows_of(self, event: Any) -> Int64Array:
        """The rows of the requests that an event names."""
        return np.array([self._rows[key] for key in _keys(event)], dtype=np.int64)

    def _add_to_rows(self, field: RowField, rows: Int64Array, deltas: Int64Array | int) -> None:
        self.state.rows[field][rows] += deltas
        self._digest.rows(field, rows, deltas)

    # ------------------------------------------------------------ pages and the tree

    def _on_allocated(self, event: events.PageAllocated) -> None:
        pages, counts = numbers(event.pages, "i4"), numbers(event.counts, "i4")
        self._require(not self.state.refs[pages].any(), "a page is given out that somebody holds")
        rows = numbers(event.rows, "i4")
        self._require(bool(self.state.rows[RowField.PRESENT][rows].all()), "a page is given to a row that is free")
        old = self.state.rows[RowField.NUM_PAGES][rows]
        self.state.reserve(int((old + counts).max(initial=0)))
        each = np.repeat(rows, counts)
        positions = np.arange(len(each)) + np.repeat(old + counts - np.cumsum(counts), counts)
        self._digest.table(+1, each, positions, pages)
        self.state.page_table[each, positions] = pages
        self._add_to_rows(RowField.NUM_PAGES, rows, counts)
        self._take(pages)

    def _tick(self, clock: int) -> None:
        self._digest.scalar(1, clock - self.state.clock)
        self.state.clock = clock

    def _on_touched(self, event: events.CacheTouched) -> None:
        self._tick(event.clock)
        for node in self.state.path(event.node):
            self._digest.node_use(node.node, event.clock - node.last_use)
            self.state.nodes[node.node] = NodeFacts(
                node.node, node.parent, node.lock, event.clock, node.digest, node.pages
            )

    def _on_locked(self, event: events.CacheLocked) -> None:
        for node in self.state.path(event.node):
            self._lock(node, event.delta)

    def _lock(self, node: NodeFacts, delta: int) -> None:
        self._require(node.lock + delta >= 0, f"node {node.node} is unlocked more often than it was locked")
        self._digest.node_lock(node.node, delta)
        self.state.nodes[node.node] = NodeFacts(
            node.node, node.parent, node.lock + delta, node.last_use, node.digest, node.pages
        )

    def _put_node(self, node: NodeFacts) -> None:
        self._digest.node(+1, *node)
        self.state.nodes[node.node] = node

    def _remove_node(self, node: int) -> NodeFacts:
        facts = self.state.nodes.pop(node)
        self._digest.node(-1, *facts)
        return facts

    def _on_split(self, event: events.CacheSplit) -> None:
        old = self._remove_node(event.node)
        cut = event.num_pages
        self._require(0 < cut < len(old.pages), f"node {event.node} has no place to be cut after {cut} pages")
        self._put_node(old._replace(parent=event.new_node, digest=event.lower_digest, pages=old.pages[cut:]))
        self._put_node(old._replace(node=event.new_node, digest=event.upper_digest, pages=old.pages[:cut]))

    def _on_inserted(self, event: events.CacheInserted) -> None:
        pages = numbers(event.pages, "i4")
        self._tick(event.clock)
        self._require(event.parent == 0 or event.parent in self.state.nodes, f"its parent {event.parent} isn't there")
        self._put_node(NodeFacts(event.node, event.parent, 0, event.clock, event.digest, pages.astype(np.int32)))
        self._take(pages)

    def _on_evicted(self, event: events.CacheEvicted) -> None:
        given = [np.zeros(0, dtype=np.int32)]
        for node in numbers(event.nodes, "i8").tolist():
            self._require(not self.state.nodes[node].lock, f"node {node} is evicted while a request holds it")
            given.append(self._remove_node(node).pages)
        pages = numbers(event.pages, "i4")
        self._require(
            np.array_equal(np.concatenate(given), pages), "the evicted pages are not those of the evicted nodes"
        )
        self._require(len(self._give_back(pages)) == len(pages), "an evicted page is still held by a request")

    def _on_moved(self, event: events.CacheMoved) -> None:
        old = int(self.state.rows[RowField.NODE, event.row])
        self._add_to_rows(RowField.NODE, np.array([event.row]), np.array([event.node - old]))
        path = self.state.path(event.node)
        held = [node.node for node in path].index(old) + 1 if old else 0
        for node in path[held:]:
            self._lock(node, +1)

    # ------------------------------------------------------------ keyframes

    def _on_keyframe(self, event: events.TraceKeyframe) -> None:
        mine = self.state.read(event.part, event.start, event.stop)
        for name, data in event.columns.items():
            self._require(
                name in mine and np.array_equal(mine[name], numbers(data, "i8")),
                f"keyframe {event.keyframe}: column {name!r} of {event.part!r} isn't what the events fold to",
            )
        self.num_keyframes += event.last
        if event.last:
            self._check_pages()


class _Submitted(NamedTuple):
    """A step in flight: the requests as the event named them, their rows, and the tokens of each."""

    uids: bytes
    choices: bytes
    rows: Int64Array
    lens: Int64Array


def _keys(event: Any) -> list[Key]:
    """The requests that an event names."""
    return list(zip(numbers(event.uids, "i8").tolist(), numbers(event.choices, "i4").tolist(), strict=True))
