"""What the scheduler looks at before it takes a request: whether this model can ever serve it.

`Scheduler` calls both functions once a request. Here, and not at the API's door, is known how many tokens a prompt
has and which there are; the offline API's requests come by here, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from learnsgl.core import Int32Array, SamplingParams
from learnsgl.errors import ContextLengthError, RequestError
from learnsgl.message.types import UserMsg
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.trace.journal import Journal

if TYPE_CHECKING:
    from learnsgl.scheduler.grammar import Grammars
    from learnsgl.scheduler.grammar_matcher import GrammarMatcher


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


def start_matchers(
    message: UserMsg, grammars: Grammars | None, journal: Journal
) -> list[GrammarMatcher] | list[None]:  # fmt: skip
    """A matcher for each choice of a request, where it has a grammar.

    Raises:
        RequestError: the grammar can't be used, or `grammars` is missing.
    """
    grammar, num_choices = message.sampling.grammar, message.sampling.n
    if grammar is None:
        return [None] * num_choices
    if grammars is None:
        raise RequestError("grammars aren't supported here; leave it out", code="unsupported", param="grammar")
    compiled = grammars.compile(grammar)
    journal.constrained(message.uid, grammar.kind.value, compiled.num_bytes, compiled.start_ns, compiled.end_ns)
    return [grammars.start(compiled) for _ in range(num_choices)]


def _check_ids(ids: Iterable[int], info: ExecutorInfo, what: str, param: str) -> None:
    for token in ids:
        if not 0 <= token < info.vocab_size:
            raise RequestError(
                f"{what} {token} isn't in the vocabulary; ids go from 0 to {info.vocab_size - 1}", param=param
            )
