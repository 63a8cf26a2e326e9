"""Policies: how a step's tokens are divided between prompts and running answers.

A policy is a small class with one method; `--policy` names it, and the scheduler asks it once a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from learnsgl.errors import OptionError


@dataclass(frozen=True, slots=True)
class Division:
    """How one step is divided.

    Attributes:
        prefill_tokens: most prompt tokens in the step.
        decode_beside_prefill: whether running answers ride along when there is any prompt token; without prompt
            tokens they always run.
    """

    prefill_tokens: int
    decode_beside_prefill: bool


class Policy(Protocol):
    """Divides the tokens of a step."""

    def divide(self, budget_tokens: int, num_decodable: int) -> Division:
        """Divide the next step.

        Args:
            budget_tokens: most tokens of a step (`--max-prefill-length`).
            num_decodable: running requests that could each take one token.
        """
        ...


class PrefillFirst:
    """Prompts before running answers: the soonest first token, while those who wait for their next one wait longer.

    Source: Mini-SGLang's scheduler, and Yu et al., "Orca" (2022), section 3, for batching by iteration.
    """

    def divide(self, budget_tokens: int, num_decodable: int) -> Division:
        """All for prompts, if there are any."""
        return Division(budget_tokens, decode_beside_prefill=False)


class Mixed:
    """Running answers in every step, and prompt chunks in the room that they leave: even gaps between tokens.

    Source: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve" (2024),
    section 4.
    """

    def divide(self, budget_tokens: int, num_decodable: int) -> Division:
        """One token for each running answer, the rest for prompts; prompts always get at least one token."""
        return Division(max(1, budget_tokens - num_decodable), decode_beside_prefill=True)


POLICIES: dict[str, type[Policy]] = {"prefill-first": PrefillFirst, "mixed": Mixed}


def make_policy(name: str) -> Policy:
    """The policy of that name.

    Raises:
        OptionError: there is none; the message names those there are.
    """
    if name not in POLICIES:
        raise OptionError(f"--policy is {name!r}; choose one of: {', '.join(POLICIES)}")
    return POLICIES[name]()
