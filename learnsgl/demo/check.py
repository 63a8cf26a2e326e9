"""What the demo's recording must show, each point looked up in the trace and not in what the program intended.

`run.py` prints the findings and ends with an error unless all of them hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from learnsgl.core import FinishReason
from learnsgl.demo.ask import Answer
from learnsgl.demo.questions import MIN_LONG_PROMPT_TOKENS
from learnsgl.errors import TraceError
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.life import RequestLife
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace

GOOD_ENDINGS = (FinishReason.STOP, FinishReason.LENGTH)


@dataclass(frozen=True)
class Finding:
    """One point.

    Attributes:
        holds: whether the trace shows it.
        text: what it shows.
    """

    holds: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.holds else 'NOT'} {self.text}"


def lives_of(trace: Trace, answers: Sequence[Answer]) -> list[RequestLife]:
    """The life of each answered request, in the order of the answers.

    Raises:
        TraceError: the trace lacks one.
    """
    lives = {life.key.uid: life for life in requests(trace)}
    missing = [f"{answer.question.name} (request {answer.uid})" for answer in answers if answer.uid not in lives]
    if missing:
        raise TraceError(f"{trace.path} holds nothing of {', '.join(missing)}, which the server answered")
    return [lives[answer.uid] for answer in answers]


def prefill_chunks(trace: Trace, uid: int) -> list[int]:
    """How a request's prompt was cut: tokens of each chunk, from the `sched.step` events."""
    chunks = []
    for entry in trace.events():
        if isinstance(entry.event, events.SchedStep):
            step = entry.event
            runs = zip(ints(step.uids, "i8").tolist(), ints(step.lens, "i4").tolist(), strict=True)
            chunks += [length for run_uid, length in list(runs)[: step.num_prefill] if run_uid == uid]
    return chunks


def findings(trace: Trace, answers: Sequence[Answer]) -> list[Finding]:
    """Every point that the demo promises.

    Args:
        trace: the recording.
        answers: those of the four questions, in their order.

    Raises:
        TraceError: the trace lacks a request.
    """
    lives = lives_of(trace, answers)
    return [
        _endings(answers, lives),
        _told(answers, lives),
        _shared_prefix(answers[1:3], lives[1:3]),
        _chunked(trace, answers[3]),
    ]


def _endings(answers: Sequence[Answer], lives: Sequence[RequestLife]) -> Finding:
    endings = [f"{answer.question.name} {life.reason}" for answer, life in zip(answers, lives, strict=True)]
    return Finding(all(life.reason in GOOD_ENDINGS for life in lives), f"each request has one ending: {_list(endings)}")


def _told(answers: Sequence[Answer], lives: Sequence[RequestLife]) -> Finding:
    pairs = [
        (
            (answer.finish_reason, answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens),
            (life.reason, life.prompt_tokens, life.cached_tokens, life.generated_tokens),
        )
        for answer, life in zip(answers, lives, strict=True)
    ]
    differing = [f"client {told}, trace {recorded}" for told, recorded in pairs if told != recorded]
    text = "; ".join(differing) or f"ending and usage of all {len(pairs)} are the same at the client and in the trace"
    return Finding(not differing, text)


def _shared_prefix(answers: Sequence[Answer], lives: Sequence[RequestLife]) -> Finding:
    """Whichever of the two was admitted later must have found the other's system prompt in the cache."""
    (first, _), (second, life) = sorted(
        zip(answers, lives, strict=True), key=lambda pair: (pair[1].cached_tokens or 0, pair[1].admitted_ns or 0)
    )
    cached = f"{life.cached_tokens} of its {life.prompt_tokens} prompt tokens"
    text = f"{second.question.name}: {cached} came from the cache, where {first.question.name} had left them"
    is_most = (life.cached_tokens or 0) > (life.prompt_tokens or 0) // 2  # every chat shares its first few tokens
    return Finding(is_most, text)


def _chunked(trace: Trace, answer: Answer) -> Finding:
    chunks = prefill_chunks(trace, answer.uid)
    total = sum(chunks) + answer.cached_tokens
    text = f"{answer.question.name}: {total:,} prompt tokens in {len(chunks)} chunks ({', '.join(map(str, chunks))})"
    return Finding(len(chunks) > 1 and total > MIN_LONG_PROMPT_TOKENS, text)


def _list(words: Sequence[str]) -> str:
    return ", ".join(words)
