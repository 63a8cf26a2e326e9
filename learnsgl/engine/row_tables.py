"""What the engine knows of each table row: its pages, its tokens, and how to sample them.

The scheduler decides what a row is given; this room keeps it where the model reads it. Only the engine's compute
thread calls it, so nothing here is locked.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.core import Int32Array
from learnsgl.engine.logit_rules import LogitRules
from learnsgl.engine.sampler import SamplingBatch, mix, uniforms
from learnsgl.engine.step_inputs import SamplingInputs, StepInputs
from learnsgl.engine.transfers import HOST, Transfers
from learnsgl.errors import EngineError
from learnsgl.scheduler.executor import Admission, Step

Int64Array = npt.NDArray[np.int64]
_Count = TypeVar("_Count", int, Int32Array)


class RowTables:
    """The page table, the token pool and the sampling parameters.

    Attributes:
        page_table: int32 [num_rows, max_pages_per_row], device; the pages of a row, in the order of its positions.
        token_pool: int32 [num_rows, max_model_len + 1], device; the token at each position of a row. Sampling writes
            it, and the next step reads it, so that the host needn't see a token before the step after it is queued.
        num_pages: int32 [num_rows], host; pages that each row has.
    """

    def __init__(
        self,
        *,
        num_rows: int,
        max_model_len: int,
        page_size: int,
        vocab_size: int,
        eos_ids: tuple[int, ...] = (),
        seed: int,
        device: torch.device,
        transfers: Transfers = HOST,
        samples_on_device: bool = False,
    ) -> None:
        """Empty tables.

        Args:
            num_rows: table rows.
            max_model_len: most tokens of a row.
            page_size: tokens a page.
            vocab_size: tokens there are.
            eos_ids: tokens that end a sequence.
            seed: the engine's, for requests that bring none.
            device: where the tables are.
            transfers: the way there.
            samples_on_device: whether the parameters of sampling travel with each step's inputs.
        """
        self._samples_on_device = samples_on_device
        self._sampling: SamplingInputs | None = None  # of the step that was prepared last
        self._page_size = page_size
        self._vocab_size = vocab_size
        self._seed = seed
        self._transfers = transfers
        max_pages = -(-max_model_len // page_size)
        self.page_table = torch.zeros(num_rows, max_pages, dtype=torch.int32, device=device)
        self.token_pool = torch.zeros(num_rows, max_model_len + 1, dtype=torch.int32, device=device)
        self.num_pages = np.zeros(num_rows, dtype=np.int32)
        self._tenancies = np.zeros(num_rows, dtype=np.int64)  # requests that each row has been given to
        self._temperature = np.ones(num_rows, dtype=np.float32)
        self._top_k = np.full(num_rows, vocab_size, dtype=np.int64)
        self._top_p = np.ones(num_rows, dtype=np.float32)
        self._min_p = np.zeros(num_rows, dtype=np.float32)
        self._wants_logprobs = np.zeros(num_rows, dtype=np.bool_)
        self._wants_top = np.zeros(num_rows, dtype=np.bool_)
        self._greedy = np.ones(num_rows, dtype=np.bool_)
        self._seeds = np.zeros(num_rows, dtype=np.uint64)
        self._rules = LogitRules(num_rows=num_rows, eos_ids=eos_ids, token_pool=self.token_pool, transfers=transfers)

    def prepare(self, step: Step) -> StepInputs:
        """Take over what a step says of rows (those released, those admitted, and new pages), and send its inputs.

        Raises:
            EngineError: a row has too few pages for the positions that the step computes.
        """
        self.release(step.released_rows)
        for admission in step.admitted:
            self._admit(admission)
        page_places = self._append_pages(step.rows, step.page_counts)
        needed = self.pages_for(step.starts + step.lens)
        short = np.flatnonzero(self.num_pages[step.rows] < needed)
        if len(short):
            row = int(step.rows[short[0]])
            raise EngineError(
                f"row {row} computes up to position {int((step.starts + step.lens)[short[0]])} and needs "
                f"{int(needed[short[0]])} pages; it was given {int(self.num_pages[row])}"
            )
        lens = step.lens.astype(np.int64)
        first_tokens = np.cumsum(lens) - lens
        offsets = np.arange(int(lens.sum())) - np.repeat(first_tokens, lens)  # of each token within its run
        token_rows = np.repeat(step.rows.astype(np.int64), lens)
        positions = np.repeat(step.starts.astype(np.int64), lens) + offsets
        wanted = (first_tokens + lens - 1)[step.wants_token.astype(bool)]
        if step.num_prompt_logits is not None:
            of_prompts = np.flatnonzero(offsets < np.repeat(step.num_prompt_logits, lens))
            wanted = np.union1d(wanted, of_prompts)
        everything = len(wanted) == len(offsets)
        token_places = token_rows * self.token_pool.shape[1] + positions
        return self._send(
            [page_places, step.new_pages, token_rows, positions, token_places, *([] if everything else [wanted])],
            step,
        )

    def _send(self, inputs: list[npt.NDArray[Any]], step: Step) -> StepInputs:
        """Everything in one copy: the forward pass's inputs, what was written into tables, and the sampling's."""
        sampled = step.wants_token.astype(bool)
        rows, ends = step.rows[sampled], (step.starts + step.lens)[sampled].astype(np.int64)
        writes = [
            (table, values)
            for admission in step.admitted
            for table, values in (
                (self.token_pool[admission.row], admission.prompt_ids),
                (self.page_table[admission.row], admission.cached_pages),
            )
            if len(values)
        ]
        any_filtered, parameters = self._parameters(rows, ends) if self._samples_on_device else (False, [])
        places = rows.astype(np.int64) * self.token_pool.shape[1] + ends
        sent = self._transfers.upload(*inputs, *(values for _, values in writes), places, *parameters)
        rest = sent[len(inputs) :]
        self._sampling = SamplingInputs(rest[len(writes)], tuple(rest[len(writes) + 1 :]), any_filtered)
        written = tuple(
            (table[: len(values)], values) for (table, _), values in zip(writes, rest[: len(writes)], strict=True)
        )
        page_places, pages, token_rows, positions, token_places, *wanted = sent[: len(inputs)]
        return StepInputs(
            written, page_places, pages, token_rows, positions, token_places, wanted[0] if wanted else None
        )  # fmt: skip

    def release(self, rows: Int32Array) -> None:
        """Forget the pages of rows that are free again; the rest is written anew when a row is admitted."""
        self.num_pages[rows] = 0

    def lend_first_page(self) -> None:
        """Give every row page 0 at each of its positions: contexts of any length without a page of their own.

        For a trial; nothing that is computed then is of use.
        """
        self.page_table.zero_()
        self.num_pages[:] = self.page_table.shape[1]

    def pages_for(self, num_tokens: _Count) -> _Count:
        """Pages that so many tokens need."""
        return -(-num_tokens // self._page_size)

    def batch(self, step: Step, inputs: StepInputs, *, out: torch.Tensor | None = None) -> ForwardBatch:
        """Bring the tables up to date, and read the step's tokens from the token pool, into `out` (int32 [T])."""
        for table, values in inputs.writes:
            table.copy_(values)
        if len(inputs.pages):
            self.page_table.view(-1).index_copy_(0, inputs.page_places, inputs.pages)
        return ForwardBatch(
            rows=step.rows,
            starts=step.starts,
            lens=step.lens,
            tenancies=self._tenancies[step.rows],
            token_rows=inputs.token_rows,
            positions=inputs.positions,
            input_ids=torch.index_select(self.token_pool.view(-1), 0, inputs.token_places, out=out),
            logit_indices=inputs.logit_indices,
        )

    def sampling(self, rows: Int32Array, positions: Int64Array) -> SamplingBatch:
        """How to choose the tokens at `positions` of `rows`; both [n]."""
        return SamplingBatch(
            temperature=self._temperature[rows],
            top_k=self._top_k[rows],
            top_p=self._top_p[rows],
            min_p=self._min_p[rows],
            greedy=self._greedy[rows],
            uniforms=uniforms(self._seeds[rows], positions),
        )

    @property
    def sampling_on_device(self) -> SamplingInputs:
        """The same for the kernels of a GPU, of the step that was prepared last."""
        assert self._sampling is not None, "a step is prepared before it is sampled"
        return self._sampling

    def _parameters(self, rows: Int32Array, positions: Int64Array) -> tuple[bool, list[npt.NDArray[Any]]]:
        """Whether any row is filtered, and the parameters for kernels, whose noise follows from seed and position."""
        greedy, top_k, top_p, min_p = self._greedy[rows], self._top_k[rows], self._top_p[rows], self._min_p[rows]
        filtered = (top_k < self._vocab_size) | (top_p < 1.0) | (min_p > 0.0)
        temperature = np.where(greedy, np.float32(0.0), self._temperature[rows])
        seeds = self._seeds[rows].view(np.int64)
        parameters = [temperature, top_k.astype(np.int32), top_p, min_p, seeds, positions]
        return bool((filtered & ~greedy).any()), parameters

    def logprob_places(self, rows: Int32Array) -> Int32Array:
        """Which of `rows` [n] want the log-probabilities of their tokens: int32 [m]."""
        return np.flatnonzero(self._wants_logprobs[rows]).astype(np.int32)

    def wants_top(self, rows: Int32Array) -> bool:
        """Whether any of `rows` wants the likeliest tokens beside its own."""
        return bool(self._wants_top[rows].any())

    def tokens_at(self, row: int, start: int, stop: int) -> torch.Tensor:
        """The tokens of a row at positions `start` up to `stop`: int64, device."""
        return self.token_pool[row, start:stop].long()

    def changed_logits(self, logits: torch.Tensor, rows: Int32Array, positions: Int64Array) -> torch.Tensor:
        """Logits [n, V] with the bias, the penalties and the bans of `rows`, for tokens at `positions`; both [n]."""
        return self._rules.apply(logits, rows, positions)

    def write_tokens(self, tokens: torch.Tensor) -> None:
        """Keep the tokens sampled for the step that was prepared last (int32 [n], device) where the next reads them."""
        self.token_pool.view(-1).index_copy_(0, self.sampling_on_device.places, tokens)

    def _admit(self, admission: Admission) -> None:
        row, sampling, num_cached = admission.row, admission.sampling, len(admission.cached_pages)
        self.num_pages[row] = num_cached
        self._tenancies[row] += 1
        self._temperature[row] = sampling.temperature
        self._top_k[row] = self._vocab_size if sampling.top_k is None else min(sampling.top_k, self._vocab_size)
        self._top_p[row] = sampling.top_p
        self._min_p[row] = sampling.min_p
        self._greedy[row] = sampling.is_greedy
        self._seeds[row] = row_seed(self._seed, admission)
        self._wants_logprobs[row] = sampling.logprobs is not None
        self._wants_top[row] = bool(sampling.logprobs or sampling.prompt_logprobs)
        self._rules.admit(admission)

    def _append_pages(self, rows: Int32Array, counts: Int32Array) -> Int64Array:
        """Count the pages that rows are given; where in the flat page table these go, int64 [sum(counts)]."""
        first = np.cumsum(counts) - counts
        columns = np.repeat(self.num_pages[rows] - first, counts) + np.arange(int(counts.sum()))
        places: Int64Array = np.repeat(rows.astype(np.int64), counts) * self.page_table.shape[1] + columns
        self.num_pages[rows] += counts
        return places


def row_seed(engine_seed: int, admission: Admission) -> np.uint64:
    """Where a request's random sequence begins.

    It follows from the request's own seed, or from the engine's and the request's id; and from the choice, so that
    the `n` answers to one prompt differ.
    """
    given = admission.sampling.seed
    seed = engine_seed if given is None else given
    path = [admission.key.choice] if given is not None else [admission.key.uid, admission.key.choice]
    state = np.array([seed % 2**64], dtype=np.uint64)
    for number in path:
        state = mix(state, np.array([number], dtype=np.uint64))
    return np.uint64(state[0])
