"""The largest step there can be, and one of every other kind, run once: what a step takes on a GPU is measured here.

`gpu_loading.py` runs the trial before it decides on the number of KV pages, and twice on the real runner. After that
PyTorch's allocator holds all that any step will need, and every kernel has been compiled and loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.config import SchedulerConfig
from learnsgl.core import MAX_TOP_LOGPROBS, Int32Array, ReqKey, SamplingParams
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.scheduler.executor import Admission, Masks, Step
from learnsgl.scheduler.prefill import MAX_LOGPROB_TOKENS

_NOTHING = np.zeros(0, dtype=np.int32)

HUNGRY = SamplingParams(
    temperature=1.0, top_k=50, top_p=0.9, min_p=0.01, frequency_penalty=0.5, presence_penalty=0.5,
    repetition_penalty=1.1, logit_bias={0: 1.0}, min_tokens=1, logprobs=MAX_TOP_LOGPROBS,
    prompt_logprobs=MAX_TOP_LOGPROBS,
)  # fmt: skip
"""Sampling parameters with which a row takes the most memory: penalties count the whole vocabulary."""

KINDS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=0.7, top_p=0.9),
    SamplingParams(temperature=0.0, frequency_penalty=0.5),
    HUNGRY,
)
"""One for each way that logits take to a token: in the model's dtype or in float32, with a search or without."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What steps there can be.

    Attributes:
        num_rows: most rows of a step.
        num_tokens: most tokens of a step.
        max_model_len: most tokens of a row.
        page_size: tokens a page.
        is_copying: whether attention copies the contexts of rows that decode, as the torch backend does: a step in
            which all of them are long would take more memory than a GPU has.
    """

    num_rows: int
    num_tokens: int
    max_model_len: int
    page_size: int
    is_copying: bool = False

    @classmethod
    def of(cls, scheduler: SchedulerConfig, *, max_model_len: int, page_size: int, is_copying: bool = False) -> Trial:
        """The trial for a scheduler of so many rows and prompt tokens a step."""
        num_tokens = scheduler.max_prefill_length + scheduler.max_running_requests
        return cls(scheduler.max_running_requests, num_tokens, max_model_len, page_size, is_copying)

    def steps(self) -> Iterator[Step]:
        """The two largest steps with the costliest sampling, then small ones of every other kind.

        All contexts lie in page 0, however long they are: see `RowTables.lend_first_page`.
        """
        rows = np.arange(self.num_rows, dtype=np.int32)
        lens = _share_out(self.num_tokens, self.num_rows, most=max(1, self.max_model_len - 1))
        yield self._step(rows, 0 * rows, lens, HUNGRY, num_prompt_logits=_first(MAX_LOGPROB_TOKENS, lens - 1))
        if self.max_model_len == 1:
            return
        yield self._step(rows, lens if self.is_copying else 0 * lens + self.max_model_len - 1, 0 * lens + 1)
        some = rows[:2]
        for sampling in KINDS:
            yield self._step(some, 0 * some, 0 * some + 1, sampling)
        # Attention has kernels of its own for few splits and many, which hang on the longest context, and for tokens
        # that decode beside prompts.
        for start in {1, 1 if self.is_copying else self.max_model_len - 1}:
            yield self._step(some, 0 * some + start, 0 * some + 1)
            yield self._step(some, np.array([0, start])[: len(some)], np.array([2, 1])[: len(some)])

    def _step(
        self,
        rows: Int32Array,
        starts: npt.NDArray[np.integer],
        lens: npt.NDArray[np.integer],
        sampling: SamplingParams | None = None,
        *,
        num_prompt_logits: Int32Array | None = None,
    ) -> Step:
        """A step of runs anywhere in their rows; with parameters, their requests are admitted with it."""
        admitted: tuple[Admission, ...] = ()
        counts = 0 * rows
        if sampling is not None:
            counts = -(-lens // self.page_size).astype(np.int32)
            prompts = [np.zeros(length, dtype=np.int32) for length in lens.tolist()]
            admitted = tuple(
                Admission(ReqKey(row), row, prompt, sampling, _NOTHING)
                for row, prompt in zip(rows.tolist(), prompts, strict=True)
            )
        return Step(
            number=0, admitted=admitted, rows=rows, starts=starts.astype(np.int32), lens=lens.astype(np.int32),
            wants_token=0 * rows + 1, page_counts=counts, new_pages=np.zeros(int(counts.sum()), dtype=np.int32),
            released_rows=_NOTHING, num_prompt_logits=num_prompt_logits,
        )  # fmt: skip


def run_trial(runner: ModelRunner, trial: Trial) -> None:
    """Run the steps and forget their rows. Without a GPU it waits for each; on one, nothing is waited for."""
    for layer in runner.pool.layers:  # every context lies in this page; what memory held before may be no number
        layer[:, :, : runner.pool.page_size].zero_()
    runner.tables.lend_first_page()
    for step in trial.steps():
        logits = runner.forward_batch(step)
        assert logits is not None, "every run wants a token"
        everything = b"\xff" * (len(step.rows) * -(-logits.shape[1] // 8))
        runner.sample_batch(step, logits, Masks(step.rows, everything))  # as if a grammar had a say in each row
        runner.tables.lend_first_page()
    runner.tables.release(np.arange(trial.num_rows, dtype=np.int32))


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


def workspace_of(before: MemoryUse, after: MemoryUse, *, made_bytes: int) -> int:
    """What PyTorch's allocator holds for the largest step.

    Args:
        before: when weights were all there was.
        after: when the trial had run.
        made_bytes: pages, tables and buffers of the trial's runner.
    """
    return max(0, after.peak_reserved - before.reserved - made_bytes)


def libraries_of(before: MemoryUse, after: MemoryUse) -> int:
    """What loaded kernels and libraries took beside PyTorch's allocator; another program on the GPU counts, too."""
    return max(0, (after.used - before.used) - (after.reserved - before.reserved))


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
