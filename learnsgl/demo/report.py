"""The demo's tables: each request's tokens and times, and the eight stages of one life as bars.

`run.py` prints them. All of it is read back from the trace; nothing was measured in the demo's own process.
"""

from __future__ import annotations

from collections.abc import Sequence

from learnsgl.demo.ask import Answer
from learnsgl.trace.life import RequestLife
from learnsgl.trace.show import Row, table

BAR_WIDTH = 40

STAGE_MEANINGS = {
    "received": "api: read and checked the HTTP request",
    "tokenized": "tokenizer: text to token ids, on to the scheduler",
    "queued": "scheduler: waited for a table row and pages",
    "prefilled": "engine: the prompt's chunks, until the first token",
    "decoded": "engine: one token a step, until the last",
    "detokenized": "detokenizer: the last token to text",
    "replied": "api: the last chunk to the socket",
    "ended": "pages given back, the ending recorded",
}
"""What each stage of `trace/life.py` is, in a few words."""


def request_table(answers: Sequence[Answer], lives: Sequence[RequestLife]) -> str:
    """A row for each request: what it was to show, its ending, tokens, TTFT and TPOT."""
    rows: list[Row] = [("request", "ending", "prompt", "cached", "generated", "TTFT ms", "TPOT ms", "what it shows")]
    for answer, life in zip(answers, lives, strict=True):
        tokens = (life.prompt_tokens, life.cached_tokens, life.generated_tokens)
        rows.append(
            (
                f"{answer.question.name} (uid {life.key.uid})",
                life.reason or "none",
                *("-" if count is None else str(count) for count in tokens),
                _ms(life.ttft_s),
                _ms(life.tpot_s),
                answer.question.purpose,
            )
        )
    return table(rows)


def stage_table(life: RequestLife) -> str:
    """The eight stages of a request's life with their times, and where each lies in the whole."""
    known = [stage for stage in life.stages if stage is not None]
    start_ns = known[0].start_ns if known else 0
    span_ns = max(1, known[-1].end_ns - start_ns) if known else 1
    rows: list[Row] = [("", "stage", "ms", "of its whole life", "what happens")]
    for place, (name, stage) in enumerate(zip(STAGE_MEANINGS, life.stages, strict=True), start=1):
        bar = ""
        if stage is not None:
            left = (stage.start_ns - start_ns) * BAR_WIDTH // span_ns
            width = max(1, round((stage.end_ns - stage.start_ns) * BAR_WIDTH / span_ns))
            bar = " " * min(left, BAR_WIDTH - 1) + "#" * width
        rows.append(
            (
                str(place),
                name,
                _ms(None if stage is None else stage.seconds),
                f"|{bar:{BAR_WIDTH}}|"[: BAR_WIDTH + 2],
                STAGE_MEANINGS[name],
            )
        )
    return table(rows)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.1f}"
