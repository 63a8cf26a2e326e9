"""The seam between a model and the attention that runs on a device: a step's tokens, and what a backend does.

The engine builds a `ForwardBatch`, the backend plans it once, and each layer of the model then calls the backend's
`forward`, which keeps the new keys and values in the KV pool and attends to everything that their rows hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.core import Int32Array


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tokens of one step, those of each run behind each other, run after run.

    T is the number of tokens, n the number of runs. What decides about shapes is on the host; what is read or
    computed with is on the device.

    Attributes:
        rows: int32 [n], host; table row of each run.
        starts: int32 [n], host; first position of each run.
        lens: int32 [n], host; tokens of each run.
        tenancies: int64 [n], host; how many requests each run's row has been given to by now. What a backend knows of
            a row holds as long as this number stays.
        token_rows: int64 [T], device; table row of each token.
        positions: int64 [T], device; position of each token in its row.
        input_ids: int64 [T], device.
        logit_indices: int64 [number of wanted tokens], device; which of the T tokens want logits. `None` when all
            do, which is the usual decode step.
    """

    rows: Int32Array
    starts: Int32Array
    lens: Int32Array
    tenancies: npt.NDArray[np.int64]
    token_rows: torch.Tensor
    positions: torch.Tensor
    input_ids: torch.Tensor
    logit_indices: torch.Tensor | None

    @classmethod
    def of_no_tokens(cls, device: torch.device) -> ForwardBatch:
        """A step without runs: what a CUDA graph is captured for."""
        none = np.zeros(0, dtype=np.int32)
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return cls(none, none, none, none.astype(np.int64), nothing, nothing, nothing, None)


class AttentionBackend(Protocol):
    """Attention over paged keys and values.

    Invariants: `plan` comes before the layers of a step, and every page that the step's positions need is in the
    page table by then. Within a step, layers are run in any order, each once.
    """

    def plan(self, batch: ForwardBatch) -> None:
        """Work out everything that is the same for all layers: where tokens are kept, what each may see."""
        ...

    def forward(self, layer: int, query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
        """Keep the step's keys and values of one layer, and attend.

        Args:
            layer: number of the layer, from 0.
            query: [T, H, D], rotated.
            key_value: [T, 2 * KV, D]; the KV key heads (rotated), then the KV value heads.

        Returns:
            [T, H * D].
        """
        ...
