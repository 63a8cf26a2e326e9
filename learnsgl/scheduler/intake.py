"""What the scheduler looks at before it takes a request: whether this model can ever serve it.

`Scheduler` calls `check_request` once a request. Here, and not at the API's door, is known how many tokens a prompt
has and which there are; the offline API's requests come by here, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from learnsgl.core import Int32Array, SamplingParams
from learnsgl.errors import ContextLengthError, RequestError
from learnsgl.scheduler.executor import ExecutorInfo


def check_request(prompt_ids: Int32Array, sampling: SamplingParams, info: ExecutorInfo) -> None:
    """Refuse what can't be served.

    Args:
        prompt_ids: int32 [n].
        sampling: the request's parameters.
        info: sizes of the executor.

    Raises:
        RequestError: the prompt is empty, or it or a parameter holds an id that isn't in the vocabulary, or no token
            is left to choose.
        ContextLengthError: the prompt leaves no room for an answer.
    """
    if len(prompt_ids) == 0:
        raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
    if len(prompt_ids) >= info.max_model_len:
        raise ContextLengthError(len(prompt_ids), info.max_model_len)
    _check_ids((int(prompt_ids.min()), int(prompt_ids.max())), info, "token id", "prompt")
    _check_ids(sampling.stop_token_ids, info, "stop_token_ids:", "stop_token_ids")
    _check_ids(sampling.logit_bias, info, "logit_bias: token", "logit_bias")
    banned = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else info.eos_ids)}
    if sampling.min_tokens and len(banned) >= info.vocab_size:
        raise RequestError("stop_token_ids holds every token, and min_tokens allows none of them", param="min_tokens")


def _check_ids(ids: Iterable[int], info: ExecutorInfo, what: str, param: str) -> None:
    for token in ids:
        if not 0 <= token < info.vocab_size:
            raise RequestError(
                f"{what} {token} isn't in the vocabulary; ids go from 0 to {info.vocab_size - 1}", param=param
            )
