"""A scheduler under a steady load, for measuring one step of it: so many running requests, beside a tree so large.

`scheduler.py` and `tracing.py` time the steps of these. Nothing but the executor is made up.
"""

from __future__ import annotations

import itertools

import numpy as np

from learnsgl.bench.null_executor import NullExecutor
from learnsgl.config import SchedulerConfig
from learnsgl.core import Int32Array, SamplingParams
from learnsgl.kvcache.base import ROOT
from learnsgl.message.types import DetokenizeMsg, UserMsg
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.trace.recorder import Recorder

PREFIX_LEN = 16
"""Tokens that the prompts of a group share: a page, at page size 16."""
PROMPT_LEN = 48
SHORT_OUTPUT_LEN = 16
GROUP = 64
"""Leaves below each common prefix in the tree."""
MAX_MODEL_LEN = 8192


class SteadyLoad:
    """A scheduler on a null executor, with a constant number of running requests.

    With a short `output_len` a request ends and another arrives in almost every step, finds its prefix in the tree,
    and takes its pages from the least recently used leaf; with a long one, all just decode.

    Args:
        num_running: requests that run at once.
        output_len: tokens that each generates.
        page_size: tokens a page.
        recorder: where the scheduler's events go.
        num_nodes: least number of nodes of the radix tree when the load begins.
        step_s: seconds that the device works on a step.
        seed: of the prompts.
    """

    def __init__(
        self, num_running: int, output_len: int, page_size: int, recorder: Recorder, *, num_nodes: int = 1,
        step_s: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        self._rng = np.random.default_rng(seed)
        self._uids = itertools.count(1)
        self._num_running = num_running
        self._output_len = output_len
        pages_to_run = num_running * -(-(PROMPT_LEN + output_len) // page_size)
        pages_of_tree = (num_nodes + GROUP) * -(-(PROMPT_LEN + SHORT_OUTPUT_LEN) // page_size)
        executor = NullExecutor(pages_to_run + pages_of_tree, page_size, MAX_MODEL_LEN, step_s)
        config = SchedulerConfig(max_running_requests=num_running, max_prefill_length=MAX_MODEL_LEN, policy="mixed")
        self.scheduler = Scheduler(config, executor, recorder, run_key=b"bench")
        self._prefixes = self._grow_tree(num_nodes, page_size)
        allocator = self.scheduler.running.allocator
        if allocator.num_free > pages_to_run:  # pages nobody gets: the pool is as full as one that has run for long
            allocator.allocate(allocator.num_free - pages_to_run)
        self._fill()

    def _tokens(self, num_tokens: int) -> Int32Array:
        return self._rng.integers(1, 50_000, size=num_tokens, dtype=np.int32)

    def _grow_tree(self, num_nodes: int, page_size: int) -> list[Int32Array]:
        """Fill the tree the way requests do that end: a leaf each, below the prefix of their group."""
        running = self.scheduler.running
        prefixes: list[Int32Array] = []
        for place in range(num_nodes):  # each adds one node, and the second of a group another, for its prefix
            if place % GROUP == 0:
                if self.num_nodes >= num_nodes:
                    break
                prefixes.append(self._tokens(PREFIX_LEN))
            tokens = np.concatenate([prefixes[-1], self._tokens(PROMPT_LEN + SHORT_OUTPUT_LEN - PREFIX_LEN)])
            pages = running.allocator.allocate(-(-len(tokens) // page_size))
            running.cache.finish(0, ROOT, tokens, pages)
            running.allocator.release(pages)
        return prefixes

    @property
    def num_nodes(self) -> int:
        """Nodes of the tree now."""
        return len(self.scheduler.running.cache.node_ids())

    def _fill(self) -> None:
        """Get all requests running, those with short outputs at all stages of their lives."""
        for place in range(self._num_running):
            short = 1 + place % self._output_len
            self._arrive(short if self._output_len == SHORT_OUTPUT_LEN else self._output_len)
        for _ in range(2 * SHORT_OUTPUT_LEN):
            self.step()
            self.refill()

    def _arrive(self, output_len: int) -> None:
        prefix = self._prefixes[int(self._rng.integers(len(self._prefixes)))]
        prompt = np.concatenate([prefix, self._tokens(PROMPT_LEN - PREFIX_LEN)])
        sampling = SamplingParams(max_tokens=output_len, ignore_eos=True)
        self.scheduler.receive([UserMsg(next(self._uids), prompt.tobytes(), sampling)])

    def refill(self) -> None:
        """Let as many requests arrive as have ended."""
        for _ in range(self._num_running - self.scheduler.num_unfinished):
            self._arrive(self._output_len)

    def step(self) -> DetokenizeMsg | None:
        """One iteration of the scheduler."""
        return self.scheduler.step()
