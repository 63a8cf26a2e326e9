"""The radix tree as an indented listing, the most recently used branches first, cut to what fits on a screen.

`show.py` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping

from learnsgl.replay.scheduler_view import ROOT, TreeNode
from learnsgl.terminal import Style

MAX_NODES = 20
MAX_CHILDREN = 4
"""Children of one node that are listed, so that one wide node doesn't hide all others."""
MAX_DEPTH = 12


def tree_lines(nodes: Mapping[int, TreeNode]) -> list[tuple[str, Style]]:
    """A line for each node that is shown, and one for those that aren't."""
    lines: list[tuple[str, Style]] = []
    stack = [(node, 0) for node in _shown_children(nodes, ROOT)]
    while stack and len(lines) < MAX_NODES:
        node, depth = stack.pop(0)
        facts = nodes[node]
        lock = f", locked by {facts.lock}" if facts.lock else ""
        noun = "page" if len(facts.pages) == 1 else "pages"
        text = f"{'  ' * depth}{node}: {len(facts.pages):,} {noun}, last used at {facts.last_use:,}{lock}"
        lines.append((text, Style.MAGENTA if facts.lock else Style.PLAIN))
        if depth < MAX_DEPTH:
            stack[:0] = [(child, depth + 1) for child in _shown_children(nodes, node)]
    hidden = max(0, len(nodes) - 1) - len(lines)
    if hidden:
        lines.append((f"and {hidden:,} more {'node' if hidden == 1 else 'nodes'}", Style.DIM))
    return lines


def _shown_children(nodes: Mapping[int, TreeNode], node: int) -> list[int]:
    below = nodes[node].children if node in nodes else ()
    return sorted(below, key=lambda child: (-nodes[child].last_use, child))[:MAX_CHILDREN]
