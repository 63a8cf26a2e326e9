"""Log-probabilities on their way from a step's result to the detokenizer: from table rows to requests.

The scheduler calls it for the steps that have any, which only requests that ask for them cause.
"""

from __future__ import annotations

import numpy as np

from learnsgl.message.types import LogprobsMsg, PromptLogprobsMsg
from learnsgl.scheduler.executor import StepResult, TokenLogprobs
from learnsgl.scheduler.table import BoolArray, ReqTable
from learnsgl.trace.journal import as_bytes


def of_tokens(result: StepResult, kept: BoolArray) -> LogprobsMsg | None:
    """The log-probabilities of a step's tokens.

    Args:
        result: what the step gave.
        kept: bool [number of sampled tokens]; which of them count.

    Returns:
        Those of the tokens that count, numbered among these; `None` where no request asked for any.
    """
    if result.logprobs is None or result.logprob_places is None:
        return None
    places, values = result.logprob_places, result.logprobs
    counts = kept[places]
    numbers = np.cumsum(kept) - 1
    counted = TokenLogprobs(values.logprobs[counts], values.top_ids[counts], values.top_logprobs[counts])
    return _message(counted, as_bytes(numbers[places[counts]], "i4"))


def of_prompts(result: StepResult, table: ReqTable) -> list[PromptLogprobsMsg]:
    """The log-probabilities of prompts; of requests that have ended in the meantime nobody waits for them."""
    return [
        PromptLogprobsMsg(int(table.uid[part.row]), int(table.choice[part.row]), _message(part.values))
        for part in result.prompt_logprobs
        if not table.has_ended(np.array([part.row]))[0]
    ]


def _message(values: TokenLogprobs, places: bytes = b"") -> LogprobsMsg:
    return LogprobsMsg(
        np.ascontiguousarray(values.logprobs, dtype="<f4").tobytes(),
        values.top_ids.shape[1],
        np.ascontiguousarray(values.top_ids, dtype="<i4").tobytes(),
        np.ascontiguousarray(values.top_logprobs, dtype="<f4").tobytes(),
        places,
    )
