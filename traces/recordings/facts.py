"""What a recording shows, in the terms in which README.md speaks of it: steps, waits, pages, endings.

`catalogue.py` states claims about these facts; `record.py` and the tests check them against the packed files.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learnsgl.trace import events
from learnsgl.trace.life import RequestLife
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Entry, Trace
from learnsgl.trace.verify import verify
from recordings.steps import Steps

LONG_TOKENS = 300
"""A prompt of so many tokens is a long one."""


@dataclass
class Facts:
    """The facts of one recording.

    Attributes:
        trace: the recording.
        lives: its requests, in the order in which they came.
        steps: its steps, in order.
        kinds: how many events there are of each kind.
        blocked: how often a request began to wait, by reason.
        prefix_waits: requests that waited for a prefix, each with the one that computed it.
        num_evicted_pages: pages that the cache gave up.
        lost: processes that died, with their exit codes.
        codes: error codes that clients got.
        phases_ms: how long each part of the start-up took, by process and name.
        num_pages: pages of KV cache.
        num_hot_evictions: evictions while two requests or more held a row.
        num_told_tokens: generated tokens whose ids are in the trace.
        num_in_graphs: steps that replayed a CUDA graph.
        num_padded: those of them whose graph was larger than the step.
        num_notes: what `verify` could not prove, for recorded reasons.
        num_runs: requests in each step.
    """

    trace: Trace
    lives: list[RequestLife]
    steps: Steps = field(default_factory=Steps)
    kinds: Counter[str] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)
    prefix_waits: list[tuple[int, int | None]] = field(default_factory=list)
    num_evicted_pages: int = 0
    lost: dict[str, int | None] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    phases_ms: dict[tuple[str, str], float] = field(default_factory=dict)
    num_pages: int = 0
    num_hot_evictions: int = 0
    num_told_tokens: int = 0
    num_in_graphs: int = 0
    num_padded: int = 0
    num_notes: int = 0
    num_runs: dict[int, int] = field(default_factory=dict)

    @property
    def prompts(self) -> list[int]:
        """Lengths of the prompts, in tokens, shortest first."""
        return sorted(life.prompt_tokens or 0 for life in self.lives)

    @property
    def long_prompts(self) -> list[int]:
        """Lengths of the prompts of 300 tokens and more, shortest first."""
        return [length for length in self.prompts if length >= LONG_TOKENS]

    @property
    def longest_prompt(self) -> int:
        """Length of the longest prompt, in tokens."""
        return max(self.prompts, default=0)

    @property
    def longest_answer(self) -> int:
        """Length of the longest answer, in tokens."""
        return max(self.answers, default=0)

    @property
    def answers(self) -> list[int]:
        """Lengths of the answers, in tokens, shortest first."""
        return sorted(life.generated_tokens or 0 for life in self.lives)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of prompts that came from the cache."""
        return sum(life.cached_tokens or 0 for life in self.lives)

    @property
    def most_cached(self) -> int:
        """Most tokens that one prompt took from the cache."""
        return max((life.cached_tokens or 0 for life in self.lives), default=0)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompts)

    @property
    def num_joined(self) -> int:
        """Requests that were admitted while the answer of another one was under way."""
        return sum(
            any(other.committed_ns and other.committed_ns[0] < (life.admitted_ns or 0) < other.committed_ns[-1]
                for other in self.lives)
            for life in self.lives
        )  # fmt: skip

    @property
    def longest_gap_ms(self) -> float:
        """Longest time between two tokens of one answer."""
        pairs = [pair for life in self.lives for pair in zip(life.committed_ns, life.committed_ns[1:], strict=False)]
        return max((after - before for before, after in pairs), default=0) / 1e6

    @property
    def long_ttft_ms(self) -> float:
        """Time to first token of the request with the longest prompt."""
        longest = max(self.lives, key=lambda life: life.prompt_tokens or 0)
        return (longest.ttft_s or 0.0) * 1e3

    @property
    def ttft_ms(self) -> float:
        """Median time to first token."""
        return statistics.median([life.ttft_s * 1e3 for life in self.lives if life.ttft_s is not None] or [0.0])

    @property
    def code(self) -> str:
        """The error code that most clients got; empty where none got one."""
        return next((code for code, _ in self.codes.most_common(1)), "")

    @property
    def num_phases(self) -> int:
        """Parts of the start-up, of all processes."""
        return len(self.phases_ms)

    @property
    def num_processes(self) -> int:
        """Processes of the server."""
        return len(self.trace.processes)

    @property
    def longest_phase(self) -> str:
        """The part of a worker's start-up that took longest, with its process."""
        workers = {key: ms for key, ms in self.phases_ms.items() if key[0] != "api"}
        (process, phase), ms = max(workers.items(), key=lambda item: item[1])
        return f"`{phase}` of {process}, {ms / 1e3:.1f} s"

    @property
    def span_s(self) -> float:
        """From the arrival of the first request to the end of the last."""
        starts = [life.received_ns for life in self.lives if life.received_ns is not None]
        ends = [life.ended_ns for life in self.lives if life.ended_ns is not None]
        return (max(ends) - min(starts)) / 1e9 if starts and ends else 0.0

    def num_running_at(self, ns: int) -> int:
        """Requests that held a row at a moment."""
        admitted = [life for life in self.lives if life.admitted_ns is not None and life.admitted_ns <= ns]
        return sum(life.released_ns is None or ns < life.released_ns for life in admitted)


def read_facts(path: Path) -> Facts:
    """The facts of a packed recording."""
    trace = Trace.open(path)
    facts = Facts(trace, requests(trace), num_notes=len(verify(trace).notes))
    for entry in trace.events():
        facts.kinds[entry.kind] += 1
        _take(facts, entry, entry.event)
    return facts


def _take(facts: Facts, entry: Entry, event: Any) -> None:
    facts.steps.take(event)
    match event:
        case events.SchedBlocked():
            facts.blocked[event.reason] += 1
            if event.reason == "prefix":
                facts.prefix_waits.append((event.uid, event.other_uid))
        case events.CacheEvicted():
            facts.num_evicted_pages += len(event.pages) // 4
            facts.num_hot_evictions += facts.num_running_at(event.ns) > 1
        case events.EngineForward() if event.graph_size is not None:
            facts.num_in_graphs += 1
            facts.num_padded += event.graph_size > facts.num_runs.pop(event.step, event.graph_size)
        case events.SchedStep():
            facts.num_runs[event.step] = len(event.uids) // 8
        case events.DetokText():
            facts.num_told_tokens += len(event.token_ids) // 4
        case events.ProcessLost():
            facts.lost[event.name] = event.exit_code
        case events.ReqEnded() if event.code is not None:
            facts.codes[event.code] += 1
        case events.ProcessPhase():
            facts.phases_ms[entry.process, event.phase] = (event.ns - event.start_ns) / 1e6
        case events.EngineReady():
            facts.num_pages = event.num_pages
