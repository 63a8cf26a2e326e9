"""A checksum of the scheduler's state that is kept up to date by its changes, so that a step costs what it changed.

The state is a set of numbers, each with a place: a field and an index (`refs` of page 17, `num_output` of row 3).
Every place has a fixed pseudo-random odd weight, and the digest is the sum of weight times number, modulo 2**64.
Adding 1 to the lengths of 256 rows adds the sum of 256 weights: one array operation. A single wrong number always
shows, because an odd weight times a difference other than 0 isn't 0 modulo 2**64; several wrong ones cancel each
other with a chance of about 2**-64. The scheduler's journal and the fold of a trace both keep one, and they must agree.

Source: linear (homomorphic) hashing, as in Bellare and Micciancio, "A New Paradigm for Collision-free Hashing"
(1997), section 5 (AdHash); splitmix64 by Steele, Lea and Flood (2014). It finds mistakes; it is no defence against
someone who forges a trace.
"""

from __future__ import annotations

import copy
from enum import IntEnum
from functools import lru_cache
from operator import mul

import numpy as np
import numpy.typing as npt

MASK64 = (1 << 64) - 1

UInt64Array = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.signedinteger]


class Field(IntEnum):
    """The families of places in the state that aren't columns of the request table (`RowField`)."""

    SCALAR = 1
    """Index 0: the step number; index 1: the cache's logical clock."""
    QUEUE = 2
    """Waiting request, by arrival number: uid, choice, prompt_len, limit_len, and 1 for being there."""
    TABLE = 3
    """Page table: row, position in the row."""
    REFS = 4
    """References on a page."""
    NODE = 5
    """Tree node, by id: parent, lock, last_use, digest of its tokens, and 1 for being there."""
    NODE_PAGES = 6
    """Pages of a tree node: id, position in the node."""
    ROW = 7
    """Column of the request table, and row."""


class RowField(IntEnum):
    """Columns of the request table: what the scheduler knows of each running request."""

    PRESENT = 0
    UID = 1
    CHOICE = 2
    STAGE = 3
    PROMPT_LEN = 4
    LIMIT_LEN = 5
    CACHED_LEN = 6
    """Tokens whose KV came from the cache at admission."""
    SCHEDULED_LEN = 7
    """Tokens whose KV is computed by steps that were submitted."""
    COMMITTED_LEN = 8
    """Tokens whose KV is computed by steps that were collected."""
    NUM_OUTPUT = 9
    """Generated tokens that were committed."""
    NUM_IN_FLIGHT = 10
    """Steps with this row that are submitted and not collected."""
    NODE = 11
    """Tree node that the request holds locked; 0 is the root."""
    NUM_PAGES = 12


def mix64(x: int) -> int:
    """The finaliser of splitmix64: spreads the bits of a 64-bit number over all 64."""
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def mix64_array(x: UInt64Array) -> UInt64Array:
    """`mix64` of each element, uint64 [n] to uint64 [n]."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def weight(field: Field, index: int, part: int = 0) -> int:
    """Weight of one place: odd, 64 bits."""
    return mix64((mix64((field << 56) + index) + part) & MASK64) | 1


@lru_cache(maxsize=1 << 12)
def weights(field: Field, index: int) -> tuple[int, ...]:
    """Weights of the places (field, index, 0) to (field, index, 4). Nodes that are used once are used again soon."""
    return tuple(weight(field, index, part) for part in range(5))


class WeightTable:
    """Weights of the places (field, 0), (field, 1), ... as an array that grows on demand."""

    def __init__(self, field: Field, part: int = 0, size: int = 1024) -> None:
        self._field = field
        self._part = part
        self._weights = self._make(size)

    def _make(self, size: int) -> UInt64Array:
        base = np.arange(size, dtype=np.uint64) + np.uint64(self._field << 56)
        return mix64_array(mix64_array(base) + np.uint64(self._part)) | np.uint64(1)

    def __getitem__(self, indices: IntArray) -> UInt64Array:
        try:
            return self._weights[indices]
        except IndexError:  # seldom; to look for the greatest index each time takes longer than the look-up
            self._weights = self._make(2 * (int(indices.max()) + 1))
            return self._weights[indices]


class StateDigest:
    """The running digest. Each method adds the effect of one kind of change; `sign` is +1 or -1.

    Attributes:
        value: the digest, 0 for a scheduler that has just started.
    """

    def __init__(self) -> None:
        self.value = 0
        self._refs = WeightTable(Field.REFS)
        self._table_row = WeightTable(Field.TABLE, part=1)
        self._table_position = WeightTable(Field.TABLE, part=2)
        self._node_position = WeightTable(Field.NODE_PAGES)
        self._row = {field: WeightTable(Field.ROW, part=field) for field in RowField}
        self._whole_rows: UInt64Array = np.zeros((0, len(RowField)), dtype=np.uint64)

    def copy(self) -> StateDigest:
        """A digest of the same value that goes its own way; the weights, which never change, are shared."""
        return copy.copy(self)

    def _add(self, amount: int) -> None:
        self.value = (self.value + amount) & MASK64

    def scalar(self, index: int, delta: int) -> None:
        """The step number (index 0) or the logical clock (index 1) moved by `delta`."""
        self._add(weight(Field.SCALAR, index) * delta)

    def queue(self, sign: int, order: int, uid: int, choice: int, prompt_len: int, limit_len: int) -> None:
        """A request joined (+1) or left (-1) the queue."""
        values = (1, uid, choice, prompt_len, limit_len)
        self._add(sign * sum(map(mul, weights(Field.QUEUE, order), values)))

    def rows(self, field: RowField, rows: IntArray, deltas: IntArray | int) -> None:
        """A column of the request table changed at `rows` [n] by `deltas` [n], or all by the same."""
        weights = self._row[field][rows]
        if isinstance(deltas, int):
            self._add(int(weights.sum(dtype=np.uint64)) * deltas)
        else:
            self._add(int(weights @ deltas.astype(np.int64, copy=False).view(np.uint64)))

    def whole_row(self, sign: int, row: int, values: IntArray) -> None:
        """A row appeared (+1) or vanished (-1) with these values, int64 [len(RowField)]."""
        if row >= len(self._whole_rows):
            index = np.arange(2 * (row + 1))
            self._whole_rows = np.stack([self._row[field][index] for field in RowField], axis=1)
        total = self._whole_rows[row] @ values.astype(np.int64, copy=False).view(np.uint64)
        self._add(sign * int(total))

    def table(self, sign: int, rows: IntArray, positions: IntArray, pages: IntArray) -> None:
        """Entries [n] of the page table were set (+1) or cleared (-1)."""
        weights = self._table_row[rows] * self._table_position[positions]
        self._add(sign * int((weights * (pages.astype(np.uint64) + np.uint64(1))).sum(dtype=np.uint64)))

    def refs(self, sign: int, pages: IntArray) -> None:
        """One reference was taken (+1) on each of the pages [n], or given back (-1)."""
        self._add(sign * int(self._refs[pages].sum(dtype=np.uint64)))

    def all_refs(self, refs: IntArray) -> None:
        """The references on pages 0 to n, int64 [n], in a digest that has none yet."""
        weights = self._refs[np.arange(len(refs))]
        self._add(int((weights * refs.astype(np.uint64)).sum(dtype=np.uint64)))

    def node(self, sign: int, node: int, parent: int, lock: int, last_use: int, digest: int, pages: IntArray) -> None:
        """A tree node appeared (+1) or vanished (-1) with these values."""
        values = (1, parent, lock, last_use, digest)
        self._add(sign * sum(map(mul, weights(Field.NODE, node), values)))
        self.node_pages(sign, node, pages)

    def node_pages(self, sign: int, node: int, pages: IntArray) -> None:
        """The pages of a node were set (+1) or cleared (-1)."""
        positions = self._node_position[np.arange(len(pages))]
        total = int((positions * (pages.astype(np.uint64) + np.uint64(1))).sum(dtype=np.uint64))
        self._add(sign * weight(Field.NODE_PAGES, node, 1) * total)

    def node_parent(self, node: int, delta: int) -> None:
        """A node's parent changed; `delta` is the new id minus the old one."""
        self._add(weights(Field.NODE, node)[1] * delta)

    def node_lock(self, node: int, delta: int) -> None:
        """A node's lock count changed."""
        self._add(weights(Field.NODE, node)[2] * delta)

    def node_use(self, node: int, delta: int) -> None:
        """A node's logical time of last use changed."""
        self._add(weights(Field.NODE, node)[3] * delta)

    def node_content(self, node: int, delta: int) -> None:
        """The digest of a node's tokens changed."""
        self._add(weights(Field.NODE, node)[4] * delta)
