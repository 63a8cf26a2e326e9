"""How the last answer went: from the server's own trace where there is one, else as this client saw it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from learnsgl.chat.client import Reply
from learnsgl.config import TraceLevel
from learnsgl.errors import TraceError
from learnsgl.trace.life import RequestLife
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace

PATIENCE_S = 2.0
"""How long to wait until the server's processes have written an answer's last events; they do so every 50 ms."""
_POLL_S = 0.1


@dataclass(frozen=True)
class Stats:
    """An answer in numbers; `None` where nobody told.

    Attributes:
        ttft_s: seconds to the first token.
        tpot_s: seconds a token after the first.
        prompt_tokens, cached_tokens, generated_tokens: its lengths.
        source: who measured.
    """

    ttft_s: float | None
    tpot_s: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    generated_tokens: int | None
    source: str

    def __str__(self) -> str:
        """Two lines for people."""
        parts = [
            f"TTFT {_ms(self.ttft_s)}",
            f"TPOT {_ms(self.tpot_s)}",
            f"prompt {_count(self.prompt_tokens)} tokens, {_count(self.cached_tokens)} of them from the cache",
            f"answer {_count(self.generated_tokens)} tokens",
        ]
        return f"{' · '.join(parts)}\n{self.source}"


def measured(reply: Reply) -> Stats:
    """As this client saw it: network and parsing are in the times."""
    usage = reply.usage
    num_tokens = usage.get("completion_tokens")
    ttft_s = tpot_s = None
    if reply.first_ns is not None and reply.last_ns is not None:
        ttft_s = (reply.first_ns - reply.asked_ns) / 1e9
        if num_tokens is not None and num_tokens > 1:
            tpot_s = (reply.last_ns - reply.first_ns) / 1e9 / (num_tokens - 1)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return Stats(ttft_s, tpot_s, usage.get("prompt_tokens"), cached, num_tokens, "measured by this client")


def recorded(reply: Reply, trace_folder: Path) -> Stats | None:
    """As the server's trace has it; `None` where the answer's end isn't in it within `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        life = _life(reply, trace_folder)
        if life is not None:
            source = f"measured in the server: request {life.key.uid} of its trace in {trace_folder}"
            counts = (life.prompt_tokens, life.cached_tokens, life.generated_tokens)
            return Stats(life.ttft_s, life.tpot_s, *counts, source)
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)


def _life(reply: Reply, trace_folder: Path) -> RequestLife | None:
    """The life of the reply's request, once all that its times hang on is on disk."""
    uid = reply.request_id.rpartition("-")[2]
    try:
        trace = Trace.open(trace_folder)
        life = next((life for life in requests(trace) if str(life.key.uid) == uid), None)
    except TraceError:  # a file of it is being begun
        return None
    if life is None or life.ended_ns is None or life.answered_ns is None:
        return None
    has_text = life.first_text_ns is not None or not reply.text or trace.level == TraceLevel.STEPS
    return life if has_text else None


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.1f} ms"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
