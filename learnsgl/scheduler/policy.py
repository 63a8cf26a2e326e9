"""Policies: how a step's tokens are divided between prompts and running answers.

A policy is a small class with one method; `--policy` names it, and the scheduler asks it once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from learnsgl.config import SchedulerConfig
from learnsgl.errors import OptionError


@dataclass(frozen=True, slots=True)
class Division:
    """How one step is divided.

    Attributes:
        prefill_tokens: most prompt tokens in the step; 0 where the step belongs to running answers.
        decode_beside_prefill: whether running answers ride along when there is any prompt token; without prompt
            tokens they always run.
    """

    prefill_tokens: int
    decode_beside_prefill: bool


class Policy(Protocol):
    """Divides the tokens of a step."""

    def divide(self, budget_tokens: int, num_decodable: int, num_waited: int) -> Division:
        """Divide the next step.

        Args:
            budget_tokens: most tokens of a step (`--max-prefill-length`).
            num_decodable: running requests that could each take one token.
            num_waited: steps in a row, up to the last one, in which running answers waited for prompts.
        """
        ...


class PrefillFirst:
    """Prompts before running answers: the soonest first token, while those who wait for their next one wait longer.

    They don't wait for ever: where prompts keep coming, one step in every few is a decode step. It holds no prompt
    token at all, so it is short, and on a GPU it is a CUDA graph.

    Args:
        max_wait_steps: most steps in a row in which running answers wait.

    Source: Mini-SGLang's scheduler, and Yu et al., "Orca" (2022), section 3, for batching by iteration.
    """

    def __init__(self, max_wait_steps: int) -> None:
        self._max_wait_steps = max_wait_steps

    def divide(self, budget_tokens: int, num_decodable: int, num_waited: int) -> Division:
        """All for prompts, if there are any, until the answers have waited long enough."""
        if num_decodable and num_waited >= self._max_wait_steps:
            return Division(0, decode_beside_prefill=True)
        return Division(budget_tokens, decode_beside_prefill=False)


class Mixed:
    """Running answers in every step, and prompt chunks in the room that they leave: even gaps between tokens.

    Source: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve" (2024),
    section 4.
    """

    def divide(self, budget_tokens: int, num_decodable: int, num_waited: int) -> Division:
        """One token for each running answer, the rest for prompts; prompts always get at least one token."""
        return Division(max(1, budget_tokens - num_decodable), decode_beside_prefill=True)


POLICIES: dict[str, Callable[[SchedulerConfig], Policy]] = {
    "prefill-first": lambda config: PrefillFirst(config.max_decode_wait_steps),
    "mixed": lambda config: Mixed(),
}


def make_policy(config: SchedulerConfig) -> Policy:
    """The policy that the options name.

    Raises:
        OptionError: there is none; the message names those there are.
    """
    if config.policy not in POLICIES:
        raise OptionError(f"--policy is {config.policy!r}; choose one of: {', '.join(POLICIES)}")
    return POLICIES[config.policy](config)
