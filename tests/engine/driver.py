"""A tiny scheduler for tests: hands out rows and pages, builds steps, and drives an executor with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from learnsgl.core import Int32Array, ReqKey, SamplingParams
from learnsgl.scheduler.executor import Admission, Executor, ExecutorInfo, Step

GREEDY = SamplingParams(temperature=0.0)


def int32(values: Sequence[int]) -> Int32Array:
    """Read-only, as arrays that are decoded from a message are."""
    array = np.array(values, dtype=np.int32)
    array.setflags(write=False)
    return array


@dataclass
class StepBuilder:
    """Rows, pages and step numbers. Pages are handed out in a shuffled order, so that contexts are scattered."""

    info: ExecutorInfo
    shuffle_seed: int | None = 0
    pages: dict[int, list[int]] = field(default_factory=dict)
    computed: dict[int, int] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        order = np.arange(self.info.num_pages)
        if self.shuffle_seed is not None:
            np.random.default_rng(self.shuffle_seed).shuffle(order)
        self._free = order.tolist()
        self._admitted: list[Admission] = []
        self._released: list[int] = []

    def admit(
        self,
        row: int,
        prompt: Sequence[int],
        sampling: SamplingParams = GREEDY,
        *,
        uid: int | None = None,
        choice: int = 0,
        cached_pages: Sequence[int] = (),
    ) -> None:
        key = ReqKey(row if uid is None else uid, choice)
        self.pages[row] = list(cached_pages)
        self.computed[row] = len(cached_pages) * self.info.page_size
        self._admitted.append(Admission(key, row, int32(prompt), sampling, int32(cached_pages)))

    def release(self, row: int, *, keep_pages: bool = False) -> None:
        pages = self.pages.pop(row)
        if not keep_pages:
            self._free += pages
        self._released.append(row)

    def build(self, runs: Sequence[tuple[int, int]], *, wants: Sequence[bool] | None = None) -> Step:
        """A step that computes so many more tokens of each row; each run wants a token unless `wants` says else."""
        self.number += 1
        starts = [self.computed[row] for row, _ in runs]
        counts, new_pages = [], []
        for (row, length), start in zip(runs, starts, strict=True):
            count = -(-(start + length) // self.info.page_size) - len(self.pages[row])
            given, self._free = self._free[:count], self._free[count:]
            self.pages[row] += given
            new_pages += given
            counts.append(count)
            self.computed[row] = start + length
        step = Step(
            number=self.number,
            admitted=tuple(self._admitted),
            rows=int32([row for row, _ in runs]),
            starts=int32(starts),
            lens=int32([length for _, length in runs]),
            wants_token=int32([True] * len(runs) if wants is None else wants),
            page_counts=int32(counts),
            new_pages=int32(new_pages),
            released_rows=int32(self._released),
        )
        self._admitted, self._released = [], []
        return step


def run_step(executor: Executor, step: Step) -> list[int]:
    ticket = executor.submit(step)
    executor.sample(ticket, None)
    return executor.collect(ticket).tokens.tolist()


def generate(
    executor: Executor,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    sampling: Sequence[SamplingParams] | None = None,
    *,
    uids: Sequence[int] | None = None,
    chunk: int = 10**9,
    overlap: bool = True,
    builder: StepBuilder | None = None,
) -> list[list[int]]:
    """Complete all prompts in one batch; the next step is submitted before the last one is collected."""
    builder = builder or StepBuilder(executor.info)
    rows = range(len(prompts))
    for row in rows:
        params = GREEDY if sampling is None else sampling[row]
        builder.admit(row, prompts[row], params, uid=None if uids is None else uids[row])
    outputs: list[list[int]] = [[] for _ in rows]
    left = [len(prompt) for prompt in prompts]
    in_flight: list[tuple[object, list[int]]] = []

    def collect_first() -> None:
        ticket, sampled_rows = in_flight.pop(0)
        tokens = executor.collect(ticket).tokens.tolist()  # type: ignore[arg-type]
        for row, token in zip(sampled_rows, tokens, strict=True):
            outputs[row].append(token)

    num_sampled = [0 for _ in rows]
    while any(count < num_tokens for count in num_sampled):
        runs, wants, sampled_rows = [], [], []
        for row in rows:
            length = min(chunk, left[row]) if left[row] else 1
            if num_sampled[row] >= num_tokens:
                continue
            left[row] -= length if left[row] else 0
            runs.append((row, length))
            wants.append(not left[row])
            if not left[row]:
                sampled_rows.append(row)
                num_sampled[row] += 1
        ticket = executor.submit(builder.build(runs, wants=wants))
        executor.sample(ticket, None)
        in_flight.append((ticket, sampled_rows))
        if not overlap or len(in_flight) > 1:
            collect_first()
    while in_flight:
        collect_first()
    return outputs
