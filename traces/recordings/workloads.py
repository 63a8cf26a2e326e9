"""Workloads: which requests are sent, and when. Fixed texts, fixed moments, greedy answers.

`catalogue.py` names them; `record.py` runs one against a server. Within a round each request is sent at its own
moment, and the next round begins when all answers of the one before are there.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai

from recordings.prompts import CAPITAL, CLERK, GUIDE, QUESTIONS, log

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Ask:
    """One streamed, greedy chat request.

    Attributes:
        question: the user's message.
        max_tokens: most tokens of the answer.
        at_s: when it is sent, in seconds from the beginning of its round.
        system: the system prompt, if any.
    """

    question: str
    max_tokens: int
    at_s: float = 0.0
    system: str | None = None


Round = tuple[Ask, ...]


def send(client: openai.OpenAI, model: str, rounds: tuple[Round, ...], first_chunk: Any = None) -> list[str | None]:
    """Send a workload and wait for its end.

    Args:
        client: of the running server.
        model: name that the server has for the model.
        rounds: the requests.
        first_chunk: called without arguments at each chunk of a stream, if given.

    Returns:
        For each request, in order, `None` or the error that its client got.
    """
    errors: list[str | None] = []
    for asks in rounds:
        with ThreadPoolExecutor(len(asks)) as pool:
            start_s = time.monotonic()
            errors += pool.map(lambda ask: _stream(client, model, ask, start_s, first_chunk), asks)  # noqa: B023
    return errors


def _stream(client: openai.OpenAI, model: str, ask: Ask, start_s: float, on_chunk: Any) -> str | None:
    time.sleep(max(0.0, start_s + ask.at_s - time.monotonic()))
    system = [] if ask.system is None else [{"role": "system", "content": ask.system}]
    messages: Any = [*system, {"role": "user", "content": ask.question}]
    try:
        for _ in client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=ask.max_tokens, stream=True
        ):
            if on_chunk is not None:
                on_chunk()
    except openai.APIError as error:
        return f"{type(error).__name__}: {error.message}"
    return None


ONE_QUESTION = ((Ask(CAPITAL, 64),),)

THREE_QUESTIONS = (tuple(Ask(question, 32, 0.2 * place) for place, question in enumerate(QUESTIONS[5:])),)

TINY = ((Ask("Hi.", 2),),)

CHATS = (
    (
        Ask(QUESTIONS[0], 72, 0.00, GUIDE),
        Ask(QUESTIONS[6], 96, 0.20),
        Ask(QUESTIONS[5], 40, 0.45),
        Ask(QUESTIONS[1], 64, 0.70, GUIDE),
        Ask(QUESTIONS[7], 24, 0.75),
        Ask(QUESTIONS[4], 112, 1.10),
        Ask(QUESTIONS[2], 32, 1.50, GUIDE),
        Ask(QUESTIONS[3], 48, 2.20),
    ),
)
"""Eight conversations; three of them open with the same system prompt."""


def _harbour(first_day: int, num_days: int, at_s: float) -> Ask:
    return Ask(f"{log(first_day, num_days)} On which day did the Heron load slate?", 24, at_s)


LONG_AND_SHORT = (
    (
        Ask(QUESTIONS[4], 120, 0.00),
        Ask(QUESTIONS[6], 100, 0.05),
        _harbour(1, 11, 0.40),
        _harbour(200, 53, 0.60),
        Ask(QUESTIONS[5], 40, 0.90),
        _harbour(400, 32, 1.20),
        Ask(QUESTIONS[1], 32, 1.60),
        _harbour(600, 22, 2.00),
        Ask(QUESTIONS[7], 24, 2.40),
    ),
)
"""Logs of four lengths come while short questions are being answered."""

_A, _B, _C = log(1, 6), log(300, 6), log(700, 14)
SHARED_PREFIXES = (
    (Ask(f"{_A} How strong was the wind on day 2?", 8, 0.0, CLERK), Ask(f"{_A} Who left on day 3?", 8, 0.03, CLERK)),
    (Ask(f"{_B} How strong was the wind on day 301?", 8, 0.0, CLERK), Ask(QUESTIONS[0], 24, 0.0, GUIDE)),
    (
        Ask(f"{_A} How strong was the wind on day 5?", 12, 0.0, CLERK),
        Ask(f"{_A} {log(7, 3)} What came last?", 24, 0.1, CLERK),
        Ask(QUESTIONS[2], 24, 0.2, GUIDE),
    ),
    (Ask(f"{_C} Count the ships.", 16),),
    (Ask(f"{_A} Who left on day 3?", 8, 0.0, CLERK), Ask(f"{_B} Who left on day 303?", 8, 0.0, CLERK)),
    (Ask(f"{log(500, 14)} Count the ships.", 16), Ask(QUESTIONS[3], 12, 0.0, GUIDE)),
    (Ask(f"{_B} How strong was the wind on day 301?", 8, 0.0, CLERK), Ask(QUESTIONS[0], 8, 0.0, GUIDE)),
)
"""Rounds that share a system prompt, a system prompt and a log, or all but the end of a question."""

EIGHT_AT_ONCE = (tuple(Ask(question, 48) for question in QUESTIONS),)
"""Eight short prompts at the same moment, each answered with up to 48 tokens."""

ENDING_EARLY = (
    (Ask(QUESTIONS[0], 64, 0.0, GUIDE), Ask(CAPITAL, 64), *(Ask(question, 64) for question in QUESTIONS[1:7])),
)
"""Eight at the same moment, two of which the model ends by itself before the limit."""

ONE_LONG_AMONG_SHORT = (
    (
        Ask(QUESTIONS[4], 64, 0.00),
        Ask(QUESTIONS[6], 64, 0.00),
        _harbour(1, 44, 0.40),
        Ask(QUESTIONS[7], 24, 0.80),
    ),
)

SAME_LOG = (
    (Ask(f"{_C} Which ship came first?", 16, 0.0, CLERK),),
    tuple(Ask(f"{_C} {question}", 16, 0.1 * place, CLERK) for place, question in enumerate(QUESTIONS[:4])),
)
"""Five questions about one log: the first alone, then four that share its system prompt and log."""
