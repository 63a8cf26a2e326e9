"""The counters of a scheduler: its queue, its batches, its pages and its cache, sampled once a step.

`telling.py` draws them, and `tables.py` writes the pages down. Each event costs a few additions, never a sum over the
state.
"""

from __future__ import annotations

from typing import NamedTuple

from learnsgl.export.pages import CachePages
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.events import Event

Key = tuple[int, int]


class CounterKind(NamedTuple):
    """One counter.

    Attributes:
        name: what stands beside it.
        unit: of its values.
    """

    name: str
    unit: str


WAITING = CounterKind("queue length", "requests")
RUNNING = CounterKind("running", "requests")
BATCH_SIZE = CounterKind("batch size", "requests")
STEP_TOKENS = CounterKind("tokens a step", "tokens")
FREE_PAGES = CounterKind("free pages", "pages")
EVICTABLE_PAGES = CounterKind("evictable pages", "pages")
LOCKED_PAGES = CounterKind("locked pages", "pages")
HIT_RATE = CounterKind("cache hit rate", "%")
COUNTERS = (WAITING, RUNNING, BATCH_SIZE, STEP_TOKENS, FREE_PAGES, EVICTABLE_PAGES, LOCKED_PAGES, HIT_RATE)

Samples = list[tuple[CounterKind, int | float]]


class SchedulerCounters:
    """Counts for one scheduler process.

    Attributes:
        pages: pages of the cache.
        num_pages: all KV pages; `None` until the engine is ready, or where the trace begins later.

    Args:
        from_start: whether the process's first event is in the trace.
        has_cache: whether the cache is recorded, which it isn't at level steps.
    """

    def __init__(self, *, from_start: bool, has_cache: bool) -> None:
        self.pages = CachePages(from_start=from_start)
        self.num_pages: int | None = None
        self._has_cache = has_cache
        self._learns_running = not from_start
        self._running: set[Key] = set()
        self._prompt_lens: dict[Key, int] = {}
        self._num_cached = 0
        self._num_prompt = 0

    def _idle(self) -> Samples:
        samples: Samples = [(WAITING, 0), (RUNNING, len(self._running)), (BATCH_SIZE, 0), (STEP_TOKENS, 0)]
        if self.num_pages is not None and self.has_pages:  # only the cache holds pages then
            num_free = self.num_pages - self.pages.num_evictable - self.pages.num_locked
            samples.append((FREE_PAGES, num_free))
        return samples + self._cache()

    @property
    def has_pages(self) -> bool:
        """Whether the pages of the cache are known."""
        return self._has_cache and self.pages.is_known

    def take(self, event: Event) -> Samples:
        """Take over one event of the process; returns the counters that change with it."""
        if self._has_cache:
            self.pages.apply(event)
        match event:
            case events.EngineReady():
                self.num_pages = event.num_pages
                return [(FREE_PAGES, event.num_pages)]
            case events.ReqQueued():
                self._prompt_lens[event.uid, event.choice] = event.prompt_len
            case events.SchedAdmitted():
                return self._admit(event)
            case events.ReqFinished():
                for key in _keys(event.uids, event.choices):
                    self._running.discard(key)
                    self._prompt_lens.pop(key, None)  # it ended in the queue
            case events.SchedStep():
                return self._step(event)
            case events.SchedIdle():
                return self._idle()
        return []

    def _admit(self, event: events.SchedAdmitted) -> Samples:
        cached_lens = ints(event.cached_lens, "i4").tolist()
        for key, cached_len in zip(_keys(event.uids, event.choices), cached_lens, strict=False):
            self._running.add(key)
            prompt_len = self._prompt_lens.pop(key, None)
            if prompt_len is not None:  # else it was queued before the trace begins
                self._num_prompt += prompt_len
                self._num_cached += cached_len
        return [(HIT_RATE, 100 * self._num_cached / self._num_prompt)] if self._num_prompt else []

    def _step(self, event: events.SchedStep) -> Samples:
        if self._learns_running:  # who was admitted before the trace begins shows when it runs
            self._running.update(_keys(event.uids, event.choices))
        num_tokens = int(ints(event.lens, "i4").sum())
        return [
            (WAITING, event.num_waiting), (RUNNING, len(self._running)), (BATCH_SIZE, len(event.uids) // 8),
            (STEP_TOKENS, num_tokens), (FREE_PAGES, event.num_free_pages), *self._cache(),
        ]  # fmt: skip

    def _cache(self) -> Samples:
        if not self.has_pages:
            return []
        return [(EVICTABLE_PAGES, self.pages.num_evictable), (LOCKED_PAGES, self.pages.num_locked)]


def _keys(uids: bytes, choices: bytes) -> list[Key]:
    return list(zip(ints(uids, "i8").tolist(), ints(choices, "i4").tolist(), strict=False))
