"""The largest step there can be, run once on a few pages: what it takes on a GPU is measured there, not estimated.

`loading.py` runs the trial before it decides on the number of KV pages, and again as the warm-up of the real runner.
After that PyTorch's allocator holds all that any step will need, and every kernel has been compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from learnsgl.config import SchedulerConfig
from learnsgl.core import Int32Array, ReqKey, SamplingParams
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.scheduler.executor import Admission, Step
from learnsgl.scheduler.prefill import MAX_LOGPROB_TOKENS

_NOTHING = np.zeros(0, dtype=np.int32)

HUNGRY = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, frequency_penalty=0.5, logprobs=0, prompt_logprobs=0)
"""Sampling parameters with which a row takes the most memory: penalties count the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class TrialSteps:
    """A step that computes as many tokens as one can, and the step after it, in which all rows decode.

    Attributes:
        prefill: with chunks of prompts.
        decode: `None` where the context is too short for one more token.
        num_pages: pages that the two use, numbered from 0.
    """

    prefill: Step
    decode: Step | None
    num_pages: int

    @property
    def all(self) -> list[Step]:
        """Those that there are, in order."""
        return [self.prefill] if self.decode is None else [self.prefill, self.decode]


def make_trial(scheduler: SchedulerConfig, *, max_model_len: int, page_size: int) -> TrialSteps:
    """The steps of a trial.

    Args:
        scheduler: how many rows there are, and how many prompt tokens a step takes.
        max_model_len: most tokens of a row.
        page_size: tokens a page.
    """
    num_rows = scheduler.max_running_requests
    lens = _share_out(scheduler.max_prefill_length + num_rows, num_rows, most=max(1, max_model_len - 1))
    rows: Int32Array = np.arange(num_rows, dtype=np.int32)
    ones = np.ones(num_rows, dtype=np.int32)
    counts = -(-(lens + 1) // page_size)
    num_pages = int(counts.sum())
    admitted = tuple(
        Admission(ReqKey(int(row)), int(row), np.zeros(length, dtype=np.int32), HUNGRY, _NOTHING)
        for row, length in enumerate(lens.tolist())
    )
    prefill = Step(
        number=0, admitted=admitted, rows=rows, starts=0 * ones, lens=lens, wants_token=ones,
        page_counts=counts, new_pages=np.arange(num_pages, dtype=np.int32), released_rows=_NOTHING,
        num_prompt_logits=_first(MAX_LOGPROB_TOKENS, lens - 1),
    )  # fmt: skip
    decode = Step(
        number=0, admitted=(), rows=rows, starts=lens, lens=ones, wants_token=ones, page_counts=0 * ones,
        new_pages=_NOTHING, released_rows=_NOTHING,
    )  # fmt: skip
    return TrialSteps(prefill, decode if max_model_len > int(lens.max()) else None, num_pages)


def run_trial(runner: ModelRunner, steps: Sequence[Step]) -> None:
    """Run the steps and forget their rows. Without a GPU it waits for each; on one, nothing is waited for."""
    for step in steps:
        runner.sample_batch(step, runner.forward_batch(step), None)
    runner.tables.release(steps[0].rows)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a GPU's memory holds at a moment.

    Attributes:
        used: bytes that aren't free, whoever took them.
        reserved: bytes that PyTorch's allocator holds, used or kept for the next.
        peak_reserved: the most that it ever held.
    """

    used: int
    reserved: int
    peak_reserved: int


def workspace_of(before: MemoryUse, after: MemoryUse, *, tables_bytes: int) -> int:
    """What the largest step needs beside the pages and tables that were made for it.

    Args:
        before: when weights were all there was.
        after: when the trial had run.
        tables_bytes: pages, tables and buffers of the trial's runner.

    Returns:
        The peak of PyTorch's allocator, and what libraries and loaded kernels took beside it.
    """
    by_torch = after.peak_reserved - before.reserved - tables_bytes
    beside_torch = (after.used - before.used) - (after.reserved - before.reserved)
    return max(0, by_torch) + max(0, beside_torch)


def read_memory(device: torch.device) -> MemoryUse:
    """What a GPU's memory holds now, after what nobody needs was given back."""
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return MemoryUse(total - free, torch.cuda.memory_reserved(device), peak)


def _share_out(total: int, num_rows: int, *, most: int) -> Int32Array:
    """So many tokens over all rows, each at least one and at most `most`; the first rows get the most."""
    lens = np.ones(num_rows, dtype=np.int32)
    left = total - num_rows
    for row in range(num_rows):
        lens[row] += (more := min(max(left, 0), most - 1))
        left -= more
    return lens


def _first(number: int, lens: Int32Array) -> Int32Array:
    """The first so many positions of runs behind each other: how many of each run, int32 [n]."""
    before = np.cumsum(lens) - lens
    return np.clip(number - before, 0, lens).astype(np.int32)
