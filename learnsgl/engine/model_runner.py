"""Runs steps on the device, one after the other: everything that the engine owns there, without its thread.

`Engine` calls `forward_batch` and `sample_batch` on its compute thread; `create_engine` builds the runner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.attention.backend import ForwardBatch
from learnsgl.attention.registry import Backends
from learnsgl.core import Int32Array, ReqKey, SamplingParams
from learnsgl.engine.choose_tokens import ChooseTokens, choose_with_torch
from learnsgl.engine.graph import DecodeGraphs
from learnsgl.engine.kv_pool import KVPool
from learnsgl.engine.logprobs import normalised
from learnsgl.engine.row_tables import RowTables
from learnsgl.engine.sampler import apply_masks
from learnsgl.engine.step_inputs import StepInputs
from learnsgl.engine.transfers import HOST, Transfers
from learnsgl.models.registry import CausalLM
from learnsgl.scheduler.executor import Admission, Masks, PromptLogprobs, Step, TokenLogprobs

WARM_UP_TOKENS = 8

_NOTHING = np.zeros(0, dtype=np.int32)


class Sampled(NamedTuple):
    """What the sampling of a step gave; the attributes are those of `StepResult`.

    The arrays are on the host; on a GPU they get their values later (`Transfers.download`).
    """

    tokens: Int32Array
    logprobs: TokenLogprobs | None = None
    logprob_places: Int32Array | None = None
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    failed: npt.NDArray[np.bool_] | None = None
    """Rows whose logits allowed no token, where only the device can tell."""


@dataclass(slots=True)
class ModelRunner:
    """A model, its attention and its tables.

    Attributes:
        model: the weights and the forward pass.
        attention: reads and writes the KV pool.
        tables: pages, tokens and sampling parameters of every row.
        max_model_len: most tokens of one row.
        pool: keys and values of all rows.
        choose_tokens: how tokens are chosen from logits on this device.
        transfers: the ways between host and device.
        graphs: CUDA graphs of decode steps, where there are any.
        prompt_logprobs: what the last forward pass gave of prompts; the sampling of the same step takes it.
        graph_size: batch size of the graph that the last forward pass replayed; `None` where it ran without one.
    """

    model: CausalLM
    attention: Backends
    tables: RowTables
    max_model_len: int
    pool: KVPool
    choose_tokens: ChooseTokens = choose_with_torch
    transfers: Transfers = HOST
    graphs: DecodeGraphs | None = None
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    graph_size: int | None = None

    def prepare(self, step: Step) -> StepInputs:
        """Take a step over: its rows and pages, and its inputs, which are on their way to the device from now on.

        Raises:
            EngineError: the step asks for positions that it has given no pages.
        """
        self.prompt_logprobs, self.graph_size = (), None
        return self.tables.prepare(step)

    def forward_batch(self, step: Step) -> torch.Tensor | None:
        """`prepare`, `plan` and `run` in one, for who needn't tell them apart."""
        return self.run(step, self.plan(step, self.prepare(step)))

    def plan(self, step: Step, inputs: StepInputs) -> ForwardBatch:
        """Do what comes before the forward pass: bring the tables up to date, read the tokens, find their places.

        Args:
            step: the next step.
            inputs: what `prepare` gave for it.
        """
        if self.graphs is not None and len(step.rows):
            self.graph_size = self.graphs.size_for(step)
        if self.graphs is not None and self.graph_size is not None:
            batch = self.tables.batch(step, inputs, out=self.graphs.input_ids(len(step.rows)))
            self.graphs.plan(batch, self.graph_size)
            return batch
        batch = self.tables.batch(step, inputs)
        if len(step.rows):
            self.attention.choose(step.lens).plan(batch)
        return batch

    def run(self, step: Step, batch: ForwardBatch) -> torch.Tensor | None:
        """Run the forward pass of one step.

        Args:
            step: the next step.
            batch: what `plan` gave for it.

        Returns:
            Logits [number of wanted tokens, V] on the device; `None` when the step wants none.
        """
        if not len(step.rows):
            return None
        if self.graphs is not None and self.graph_size is not None:
            return self.graphs.replay(len(step.rows), self.graph_size)
        logits = self.model.forward(batch, self.attention.choose(step.lens))
        if step.num_prompt_logits is not None:
            logits = self._split(step, step.num_prompt_logits, logits)
        return logits if len(logits) else None

    def _split(self, step: Step, num_prompt_logits: Int32Array, logits: torch.Tensor) -> torch.Tensor:
        """Take the prompts' log-probabilities off a step's logits; returns those from which tokens are sampled."""
        ends = np.cumsum(num_prompt_logits + step.wants_token)
        found = []
        for run in np.flatnonzero(num_prompt_logits).tolist():
            row, start, num = int(step.rows[run]), int(step.starts[run]), int(num_prompt_logits[run])
            first = int(ends[run] - step.wants_token[run]) - num
            tokens = self.tables.tokens_at(row, start + 1, start + 1 + num)
            with_top = self.tables.wants_top(step.rows[run : run + 1])
            values = normalised(logits[first : first + num]).of(
                tokens, with_top=with_top, transfers=self.transfers
            )  # fmt: skip
            found.append(PromptLogprobs(row, start + 1, values))
        self.prompt_logprobs = tuple(found)
        (sampled,) = self.transfers.upload(ends[step.wants_token.astype(bool)].astype(np.int64) - 1)
        return logits.index_select(0, sampled)

    def sample_batch(self, step: Step, logits: torch.Tensor | None, masks: Masks | None) -> Sampled:
        """Choose the tokens of one step, and write them to the token pool.

        Args:
            step: a step whose forward pass has run.
            logits: what `forward_batch` gave for it.
            masks: tokens that constrained rows may take.

        Raises:
            EngineError: the logits of a row allow no token.
        """
        if logits is None:
            return Sampled(_NOTHING, prompt_logprobs=self.prompt_logprobs)
        wanted = step.wants_token.astype(bool)
        rows = step.rows[wanted]
        positions = (step.starts + step.lens)[wanted].astype(np.int64)  # where the tokens go: after their run
        places = self.tables.logprob_places(rows)
        before = None
        if len(places):
            (index,) = self.transfers.upload(places.astype(np.int64))
            before = normalised(logits.index_select(0, index))
        logits = self.tables.changed_logits(logits, rows, positions)
        if masks is not None:
            logits = apply_masks(logits, rows, masks, self.transfers)
        chosen = self.choose_tokens(logits, self.tables, rows, positions)
        ids_on_device = chosen.tokens.int()
        self.tables.write_tokens(ids_on_device)
        ids = self.transfers.download(ids_on_device)
        failed = None if chosen.failed is None else self.transfers.download(chosen.failed)
        if before is None:
            return Sampled(ids, prompt_logprobs=self.prompt_logprobs, failed=failed)
        with_top = self.tables.wants_top(rows[places])
        logprobs = before.of(chosen.tokens.index_select(0, index), with_top=with_top, transfers=self.transfers)
        return Sampled(ids, logprobs, places, self.prompt_logprobs, failed)

    def warm_up(self) -> None:
        """Run a short prompt and a decode step in row 0, so that the first request doesn't pay for what is lazy."""
        prompt = np.zeros(max(1, min(WARM_UP_TOKENS, self.max_model_len - 1)), dtype=np.int32)
        num_pages = self.tables.pages_for(len(prompt) + 1)
        admission = Admission(ReqKey(0), 0, prompt, SamplingParams(temperature=0.0), _NOTHING)
        one = np.ones(1, dtype=np.int32)
        prefill = Step(
            number=0, admitted=(admission,), rows=0 * one, starts=0 * one, lens=len(prompt) * one, wants_token=one,
            page_counts=num_pages * one, new_pages=np.arange(num_pages, dtype=np.int32), released_rows=_NOTHING,
        )  # fmt: skip
        decode = Step(
            number=0, admitted=(), rows=0 * one, starts=len(prompt) * one, lens=one, wants_token=one,
            page_counts=0 * one, new_pages=_NOTHING, released_rows=_NOTHING,
        )  # fmt: skip
        for step in (prefill, decode) if self.max_model_len > len(prompt) else (prefill,):
            self.sample_batch(step, self.forward_batch(step), None)
        self.tables.release(0 * one)
