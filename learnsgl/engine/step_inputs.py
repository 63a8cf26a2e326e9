"""What a step needs on the device, as it travels there: everything in one copy, before the step's first kernel.

`RowTables.prepare` makes it. On a GPU each copy takes a turn of the host and of the copy engine, and at small batches a
step lasts little longer than a few of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class SamplingInputs:
    """What the sampling of a step needs. n is the number of rows that get a token.

    Attributes:
        places: int64 [n]; where the tokens go in the flat token pool.
        tensors: temperature, top_k, top_p, min_p, seeds and positions, as `kernels.sampling.SamplingTensors` has them;
            empty where tokens are chosen with the host's parameters.
        any_filtered: whether any row that isn't greedy has top-k, top-p or min-p.
    """

    places: torch.Tensor
    tensors: tuple[torch.Tensor, ...]
    any_filtered: bool


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a step needs on the device. T is its number of tokens, p of its new pages.

    Attributes:
        writes: (part of a table, its new values): prompts and cached pages of the requests that get a row.
        page_places: int64 [p]; where the new pages go in the flat page table.
        pages: int32 [p].
        token_rows: int64 [T]; table row of each token.
        positions: int64 [T]; position of each token in its row.
        token_places: int64 [T]; where each token's id lies in the flat token pool.
        logit_indices: as in `ForwardBatch`.
    """

    writes: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    page_places: torch.Tensor
    pages: torch.Tensor
    token_rows: torch.Tensor
    positions: torch.Tensor
    token_places: torch.Tensor
    logit_indices: torch.Tensor | None
