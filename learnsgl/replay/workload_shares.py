"""Which requests shared a prefix, as far as the prefix cache's events tell.

`workload.py` asks. Every node of the radix tree was brought by one request, whose prompt (and answer) begins with all
that lies on the way to it. So a request that found a node, or met it when its own prompt was put into the tree, begins
with the same tokens as the request that brought the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from learnsgl.core import ReqKey
from learnsgl.replay.history_data import History
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Trace


class Share(NamedTuple):
    """Leading tokens that a prompt has in common with another request.

    Attributes:
        other: that request; `None` where the recording doesn't say.
        tokens: how many, in whole pages.
        of_answer: of these, how many lie in the other one's answer.
    """

    other: ReqKey | None
    tokens: int
    of_answer: int


@dataclass
class _Node:
    parent: int
    num_pages: int
    owner: ReqKey | None


@dataclass
class Shares:
    """What is known of shared prefixes.

    Attributes:
        by_key: for each request that shares something, with whom; the other one came before it.
        are_known: whether the recording holds the cache's events.
    """

    by_key: dict[ReqKey, Share] = field(default_factory=dict)
    are_known: bool = False


def read_shares(trace: Trace, history: History) -> Shares:
    """Find shared prefixes.

    Args:
        trace: the recording; only the first scheduler's events are read.
        history: its history.

    Raises:
        TraceFormatError: a frame is broken.
    """
    reader = _Reader(history)
    handlers = reader.handlers()
    for entry in trace.events(history.scheduler) if history.scheduler else ():
        handler = handlers.get(type(entry.event))
        if handler is not None:
            handler(entry.event)
    return reader.shares


class _Reader:
    """Follows the tree, and who brought which node."""

    def __init__(self, history: History) -> None:
        self.shares = Shares()
        self._page_size = 1 if history.engine is None else history.engine.page_size
        reqs = [req for journey in history.journeys.values() for req in journey.choices.values()]
        self._order = {req.key: place for place, req in enumerate(reqs)}
        self._prompt_len = {req.key: req.prompt_len or 0 for req in reqs}
        self._nodes: dict[int, _Node] = {}
        self._rows: dict[int, ReqKey] = {}

    def handlers(self) -> dict[type[Event], Callable[[Any], None]]:
        return {
            events.SchedAdmitted: self._on_admitted,
            events.CacheInserted: self._on_inserted,
            events.CacheMoved: self._on_moved,
            events.CacheSplit: self._on_split,
            events.CacheEvicted: self._on_evicted,
        }

    def _on_admitted(self, event: events.SchedAdmitted) -> None:
        uids, choices = ints(event.uids, "i8").tolist(), ints(event.choices, "i4").tolist()
        rows, lens, nodes = (ints(event.rows, "i4"), ints(event.cached_lens, "i4"), ints(event.nodes, "i8"))
        for place, key in enumerate(map(ReqKey, uids, choices)):
            self._rows[int(rows[place])] = key
            if lens[place]:
                node = self._nodes.get(int(nodes[place]))
                self._note(key, None if node is None else node.owner, int(lens[place]))

    def _on_inserted(self, event: events.CacheInserted) -> None:
        self.shares.are_known = True
        owner = self._rows.get(event.row)
        self._nodes[event.node] = _Node(event.parent, len(event.pages) // 4, owner)
        self._meet(owner, event.parent)

    def _on_moved(self, event: events.CacheMoved) -> None:
        self._meet(self._rows.get(event.row), event.node)

    def _on_split(self, event: events.CacheSplit) -> None:
        old = self._nodes.get(event.node)
        if old is not None:
            self._nodes[event.new_node] = _Node(old.parent, event.num_pages, old.owner)
            old.parent, old.num_pages = event.new_node, old.num_pages - event.num_pages

    def _on_evicted(self, event: events.CacheEvicted) -> None:
        for node in ints(event.nodes, "i8").tolist():
            self._nodes.pop(node, None)

    def _meet(self, key: ReqKey | None, node: int) -> None:
        """A request's own tokens lead to a node: it shares what lies up to the deepest one that another brought."""
        if key is None:
            return
        while (found := self._nodes.get(node)) is not None and found.owner in (key, None):
            node = found.parent
        if found is not None:
            self._note(key, found.owner, self._depth(node) * self._page_size)

    def _depth(self, node: int) -> int:
        """Pages from the root to the end of a node."""
        num_pages = 0
        while (found := self._nodes.get(node)) is not None:
            num_pages += found.num_pages
            node = found.parent
        return num_pages

    def _note(self, key: ReqKey, other: ReqKey | None, tokens: int) -> None:
        if other is not None and self._order[other] > self._order[key]:
            key, other = other, key  # the one that came later shares with the one that came first
        tokens = min(tokens, self._prompt_len[key])
        known = self.shares.by_key.get(key)
        if other != key and (known is None or tokens > known.tokens):
            of_answer = 0 if other is None else max(0, tokens - self._prompt_len[other])
            self.shares.by_key[key] = Share(other, tokens, of_answer)
