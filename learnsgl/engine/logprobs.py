"""Log-probabilities of tokens, and of the likeliest tokens at their places.

The model's runner calls it for the rows whose requests ask for them. They are the model's own: taken before bias,
penalties, temperature and filters change the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from learnsgl.core import MAX_TOP_LOGPROBS
from learnsgl.engine.transfers import HOST, Transfers
from learnsgl.scheduler.executor import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Normalised:
    """What log-probabilities of m rows need to be known of their logits, before those are changed.

    Attributes:
        logits: [m, V], float32.
        norms: [m, 1], float32; the logarithm of the sum of their exponentials.
    """

    logits: torch.Tensor
    norms: torch.Tensor

    def of(self, tokens: torch.Tensor, *, with_top: bool, transfers: Transfers = HOST) -> TokenLogprobs:
        """The log-probabilities of one token a row.

        Args:
            tokens: int64 [m], device.
            with_top: whether the likeliest tokens are wanted, too. They are always as many, so that a request's don't
                hang on how many its neighbours want.
            transfers: the way back to the host.
        """
        chosen = self.logits.gather(1, tokens.unsqueeze(1)) - self.norms
        num_top = min(MAX_TOP_LOGPROBS, self.logits.shape[1]) if with_top else 0
        values, ids = self.logits.topk(num_top, dim=-1)
        return TokenLogprobs(
            logprobs=transfers.download(chosen.squeeze(1)),
            top_ids=transfers.download(ids.int()),
            top_logprobs=transfers.download(values - self.norms),
        )


def normalised(logits: torch.Tensor) -> Normalised:
    """Take a copy of logits [m, V] of any float dtype, with their norms."""
    logits = logits.to(torch.float32, copy=True)
    return Normalised(logits, logits.logsumexp(dim=-1, keepdim=True))
