"""The radix tree as the figures show it: each node with its place, and the requests that hold it.

`radix_tree.py` draws the tree of one moment, the animation that of every step.
"""

from __future__ import annotations

from dataclasses import dataclass

from learnsgl.trace.digest import RowField
from learnsgl.trace.state import SchedulerState


@dataclass(frozen=True)
class TreeNode:
    """A node of the tree.

    Attributes:
        node, parent: ids; the parent 0 is the root.
        depth: nodes above it, the root not counted.
        start, num_pages: pages from the root to its first page, and its own pages.
        lock: requests that hold it or a node below it.
        last_use: logical time at which it was last used.
        uids: those requests, in the order of their rows.
    """

    node: int
    parent: int
    depth: int
    start: int
    num_pages: int
    lock: int
    last_use: int
    uids: tuple[int, ...]


def nodes_in_order(state: SchedulerState) -> tuple[TreeNode, ...]:
    """All nodes, each followed by what hangs below it; siblings in the order of their ids."""
    children: dict[int, list[int]] = {}
    for node in sorted(state.nodes):
        children.setdefault(state.nodes[node].parent, []).append(node)
    holders = _holders(state)
    found: list[TreeNode] = []
    waiting = [(node, 0, 0) for node in reversed(children.get(0, []))]
    while waiting:
        node, depth, start = waiting.pop()
        facts = state.nodes[node]
        found.append(
            TreeNode(
                node, facts.parent, depth, start, len(facts.pages), facts.lock, facts.last_use,
                tuple(holders.get(node, ())),
            )
        )  # fmt: skip
        below = start + len(facts.pages)
        waiting += [(child, depth + 1, below) for child in reversed(children.get(node, []))]
    return tuple(found)


def _holders(state: SchedulerState) -> dict[int, list[int]]:
    """From each locked node to the requests that hold it."""
    holders: dict[int, list[int]] = {}
    for row in state.used_rows():
        node = int(state.rows[RowField.NODE, row])
        while node:
            holders.setdefault(node, []).append(int(state.rows[RowField.UID, row]))
            node = state.nodes[node].parent
    return holders
