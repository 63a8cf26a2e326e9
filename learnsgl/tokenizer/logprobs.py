"""Log-probabilities by token id to log-probabilities with the tokens' text, and where in the text they stand.

The detokenizer worker calls it for the requests that ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from learnsgl.message.types import LogprobsMsg, TokenLogprob, TopLogprob
from learnsgl.tokenizer.detokenize import IncrementalDetokenizer

LEAST_LOGPROB = -9999.0
"""What a token is given that can't come at all, as at OpenAI: JSON has no infinity."""

BytesOf = Callable[[int], bytes]
"""The text of a token, in UTF-8."""


class LogprobTable:
    """The log-probabilities of one message, by place.

    Args:
        values: as the message holds them.
        bytes_of: the text of a token.
    """

    def __init__(self, values: LogprobsMsg, bytes_of: BytesOf) -> None:
        self._bytes_of = bytes_of
        self._logprobs: list[float] = np.frombuffer(values.logprobs, "<f4").astype(float).tolist()
        shape = (len(self._logprobs), values.num_top)
        self._top_ids: list[list[int]] = np.frombuffer(values.top_ids, "<i4").reshape(shape).tolist()
        self._top: list[list[float]] = np.frombuffer(values.top_logprobs, "<f4").astype(float).reshape(shape).tolist()
        self._of_place = {place: m for m, place in enumerate(np.frombuffer(values.places, "<i4").tolist())}

    def __len__(self) -> int:
        return len(self._logprobs)

    def at_place(self, place: int, token_id: int, num_top: int, offset: int, *, hidden: bool) -> TokenLogprob | None:
        """That of a step's token; `None` where the step has none for it."""
        number = self._of_place.get(place)
        return None if number is None else self.entry(number, token_id, num_top, offset, hidden=hidden)

    def entry(self, number: int, token_id: int, num_top: int, offset: int, *, hidden: bool = False) -> TokenLogprob:
        """The log-probability with this number, of a token that stands `offset` characters into the text."""
        likeliest = list(zip(self._top_ids[number], self._top[number], strict=True))[:num_top]
        top = tuple(TopLogprob(index, self._bytes_of(index), _finite(value)) for index, value in likeliest)
        value = _finite(self._logprobs[number])
        return TokenLogprob(token_id, self._bytes_of(token_id), value, offset, top, hidden)


@dataclass(slots=True)
class LivePrompt:
    """The log-probabilities of one prompt, as far as they have come.

    Attributes:
        ids: its token ids.
        num_top: how many of the likeliest tokens are wanted at each place.
    """

    ids: Sequence[int]
    num_top: int
    _offsets: list[int]
    _num_known: int = 1
    _entries: list[TokenLogprob] = field(default_factory=list)

    @classmethod
    def begin(cls, ids: Sequence[int], num_top: int, text: IncrementalDetokenizer, bytes_of: BytesOf) -> LivePrompt:
        """A prompt of which nothing has come; `text` is a fresh detokenizer."""
        offsets = []
        for token_id in ids:
            offsets.append(text.num_chars)
            text.add(token_id)
        return cls(ids, num_top, offsets, 1, [TokenLogprob(ids[0], bytes_of(ids[0]), None, 0, ())])

    @property
    def is_complete(self) -> bool:
        """Whether every token has its log-probability."""
        return self._num_known == len(self.ids)

    def add(self, table: LogprobTable) -> None:
        """Take the next run's."""
        for number in range(len(table)):
            place = self._num_known
            self._entries.append(table.entry(number, self.ids[place], self.num_top, self._offsets[place]))
            self._num_known += 1

    def take(self) -> list[TokenLogprob]:
        """Those that have come since the last time: a long prompt's are too many for one message."""
        taken, self._entries = self._entries, []
        return taken


def _finite(value: float) -> float:
    return max(value, LEAST_LOGPROB)
