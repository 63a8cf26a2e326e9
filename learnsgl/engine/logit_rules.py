"""What requests change of the logits before a token is chosen: bias, penalties, and the wait for `min_tokens`.

`RowTables` keeps one `LogitRules` and the engine applies it on its compute thread. Rows without such parameters cost
one look at an array on the host, and every operator works row by row, so that neighbours never change a row's token.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from learnsgl.core import Int32Array
from learnsgl.engine.transfers import HOST, Transfers
from learnsgl.scheduler.executor import Admission

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


class LogitRules:
    """The rules of each table row.

    How often a token was generated is counted anew in each step, from the token pool, where the device has every token
    of every row: so no count can be wrong after a row is given on, and none takes memory between steps.

    Args:
        num_rows: table rows.
        eos_ids: tokens that end a sequence.
        token_pool: int32 [num_rows, max_model_len + 1], device; the token at each position of a row.
        transfers: the way to the device.
    """

    def __init__(
        self, *, num_rows: int, eos_ids: tuple[int, ...], token_pool: torch.Tensor, transfers: Transfers = HOST
    ) -> None:
        self._eos_ids = eos_ids
        self._token_pool = token_pool
        self._upload = transfers.upload
        self._has_rules = np.zeros(num_rows, dtype=np.bool_)
        self._prompt_len = np.zeros(num_rows, dtype=np.int64)
        self._frequency = np.zeros(num_rows, dtype=np.float32)
        self._presence = np.zeros(num_rows, dtype=np.float32)
        self._repetition = np.ones(num_rows, dtype=np.float32)
        self._may_end_at = np.zeros(num_rows, dtype=np.int64)  # first position where an end token may stand
        self._ends: dict[int, Int64Array] = {}
        self._biased: dict[int, tuple[Int64Array, Float32Array]] = {}

    def admit(self, admission: Admission) -> None:
        """Take over the rules of a request that gets a row."""
        row, sampling = admission.row, admission.sampling
        self._prompt_len[row] = len(admission.prompt_ids)
        self._frequency[row] = sampling.frequency_penalty
        self._presence[row] = sampling.presence_penalty
        self._repetition[row] = sampling.repetition_penalty
        # with a grammar, the scheduler's mask sees to it, which knows where the answer can't do anything else
        min_tokens = 0 if sampling.grammar is not None else sampling.min_tokens
        self._may_end_at[row] = len(admission.prompt_ids) + min_tokens
        bias = sampling.logit_bias
        self._biased[row] = np.array(list(bias), dtype=np.int64), np.array(list(bias.values()), dtype=np.float32)
        ends = (*sampling.stop_token_ids, *(() if sampling.ignore_eos else self._eos_ids))
        self._ends[row] = np.array(ends, dtype=np.int64)
        self._has_rules[row] = bool(sampling.has_penalties or bias or min_tokens)

    def apply(self, logits: torch.Tensor, rows: Int32Array, positions: Int64Array) -> torch.Tensor:
        """Change the logits from which the tokens at `positions` of `rows` (both [n]) are chosen.

        Args:
            logits: [n, V], device; float32 ones are changed in place.
            rows: table rows.
            positions: position of the token that is chosen.

        Returns:
            [n, V]; float32 where a row has rules, else `logits` itself.
        """
        places = np.flatnonzero(self._has_rules[rows])
        if not len(places):
            return logits
        logits = logits.float()
        rows, positions = rows[places], positions[places]
        (index,) = self._upload(places)
        changed = logits.index_select(0, index)
        self._add_biases(changed, rows)
        self._penalise(changed, rows, positions)
        self._forbid_ends(changed, rows, positions)
        return logits.index_copy_(0, index, changed)

    def _add_biases(self, logits: torch.Tensor, rows: Int32Array) -> None:
        lens = [len(self._biased[row][0]) for row in rows.tolist()]
        if any(lens):
            tokens = np.concatenate([self._biased[row][0] for row in rows.tolist()])
            values = np.concatenate([self._biased[row][1] for row in rows.tolist()])
            places, ids, amounts = self._upload(np.repeat(np.arange(len(rows)), lens), tokens, values)
            logits[places, ids] += amounts  # a row names a token once

    def _forbid_ends(self, logits: torch.Tensor, rows: Int32Array, positions: Int64Array) -> None:
        waiting = np.flatnonzero(positions < self._may_end_at[rows])
        if len(waiting):
            ends = [self._ends[row] for row in rows[waiting].tolist()]
            places = np.repeat(waiting, [len(tokens) for tokens in ends])
            where, ids = self._upload(places, np.concatenate(ends))
            logits[where, ids] = -torch.inf

    def _penalise(self, logits: torch.Tensor, rows: Int32Array, positions: Int64Array) -> None:
        """The penalties, in the order of `SamplingParams`: first what divides, then what is taken off."""
        repeating = np.flatnonzero(self._repetition[rows] != 1.0)
        if len(repeating):
            zeros = np.zeros(len(repeating), dtype=np.int64)
            seen = self._count(logits, rows[repeating], zeros, positions[repeating]) > 0
            (factor,) = self._upload(self._repetition[rows[repeating], None])

            def repeated(values: torch.Tensor) -> torch.Tensor:
                return torch.where(seen, torch.where(values > 0, values / factor, values * factor), values)

            self._change(logits, repeating, repeated)
        counted = np.flatnonzero((self._frequency[rows] != 0.0) | (self._presence[rows] != 0.0))
        if len(counted):
            mine = rows[counted]
            counts = self._count(logits, mine, self._prompt_len[mine], positions[counted])
            frequency, presence = self._upload(self._frequency[mine, None], self._presence[mine, None])
            self._change(logits, counted, lambda values: values - frequency * counts - presence * (counts > 0))

    def _count(self, logits: torch.Tensor, rows: Int32Array, starts: Int64Array, stops: Int64Array) -> torch.Tensor:
        """How often each token stands at positions `starts` up to `stops` of rows; all [m]; float32 [m, V]."""
        first, last = int(starts.min()), int(stops.max())
        index, begins, ends = self._upload(rows.astype(np.int64), starts[:, None], stops[:, None])
        tokens = self._token_pool[index, first:last].long()  # [m, last - first]
        places = torch.arange(first, last, device=logits.device)
        inside = (places >= begins) & (places < ends)
        counts = torch.zeros(len(rows), logits.shape[1], device=logits.device)
        return counts.scatter_add_(1, tokens, inside.float())

    def _change(
        self, logits: torch.Tensor, places: npt.NDArray[np.intp], change: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Put other values into some rows of logits."""
        (index,) = self._upload(places)
        logits.index_copy_(0, index, change(logits.index_select(0, index)))
