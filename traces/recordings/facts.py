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
from learnsgl.trace.checks.base import ints
from learnsgl.trace.life import RequestLife, requests
from learnsgl.trace.reader import Entry, Trace
from learnsgl.trace.verify import verify

LONG_TOKENS = 300
"""A prompt of so many tokens is a long one."""


@dataclass
class Step:
    """One step of the scheduler.

    Attributes:
        chunks: from each request with a chunk of its prompt in the step to the chunk's tokens.
        decodes: requests with one token of their answer in it.
        num_wasted: tokens of it that were computed for requests that had ended.
        submitted_ns, collected_ns: when it was handed to the device, and when its tokens were there.
        device_ns: beginning of its forward pass and end of its sampling.
    """

    chunks: dict[int, int]
    decodes: tuple[int, ...]
    num_wasted: int = 0
    submitted_ns: int = 0
    collected_ns: int = 0
    device_ns: tuple[int, int] = (0, 0)

    @property
    def ms(self) -> float:
        """How long the device worked on it."""
        return (self.device_ns[1] - self.device_ns[0]) / 1e6


@dataclass
class Facts:
    """The facts of one recording.

    Attributes:
        trace: the recording.
        lives: its requests, in the order in which they came.
        steps: its steps, in order.
        kinds: how many events there are of each kind.
        blocked: how often a request began to wait, by reason.
        num_evicted_pages: pages that the cache gave up.
        lost: processes that died, with their exit codes.
        codes: error codes that clients got.
        phases_ms: how long each part of the start-up took, by process and name.
        num_pages: pages of KV cache.
        num_hot_evictions: evictions while requests ran.
        num_told_tokens: generated tokens whose ids are in the trace.
        num_notes: what `verify` could not prove, for recorded reasons.
    """

    trace: Trace
    lives: list[RequestLife]
    steps: dict[int, Step] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)
    num_evicted_pages: int = 0
    lost: dict[str, int | None] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    phases_ms: dict[tuple[str, str], float] = field(default_factory=dict)
    num_pages: int = 0
    num_hot_evictions: int = 0
    num_told_tokens: int = 0
    num_notes: int = 0

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
    def num_prefill_tokens(self) -> int:
        """Tokens of prompts that were computed."""
        return sum(sum(step.chunks.values()) for step in self.steps.values())

    @property
    def chunk_steps(self) -> list[Step]:
        """Steps with a chunk of a prompt in them."""
        return [step for step in self.steps.values() if step.chunks]

    @property
    def decode_steps(self) -> list[Step]:
        """Steps of answers alone."""
        return [step for step in self.steps.values() if not step.chunks]

    @property
    def num_steps(self) -> int:
        """All steps."""
        return len(self.steps)

    @property
    def largest_step(self) -> int:
        """Most tokens in one step, of prompts and answers together."""
        return max((sum(step.chunks.values()) + len(step.decodes) for step in self.steps.values()), default=0)

    @property
    def mixed_steps(self) -> list[Step]:
        """Steps with both a chunk of a prompt and tokens of answers."""
        return [step for step in self.chunk_steps if step.decodes]

    @property
    def num_chunk_steps(self) -> int:
        """Steps with a chunk of a prompt in them."""
        return len(self.chunk_steps)

    @property
    def num_mixed_steps(self) -> int:
        """Steps with both a chunk of a prompt and tokens of answers."""
        return len(self.mixed_steps)

    @property
    def largest_batch(self) -> int:
        """Most requests that one step decoded."""
        return max((len(step.decodes) for step in self.steps.values()), default=0)

    @property
    def largest_chunk(self) -> int:
        """Most prompt tokens in one step."""
        return max((sum(step.chunks.values()) for step in self.steps.values()), default=0)

    @property
    def most_chunks(self) -> int:
        """In how many steps the prompt was computed that took most."""
        return max(Counter(uid for step in self.chunk_steps for uid in step.chunks).values(), default=0)

    @property
    def num_joined(self) -> int:
        """Requests that were admitted while the answer of another one was under way."""
        return sum(
            any(other.committed_ns and other.committed_ns[0] < (life.admitted_ns or 0) < other.committed_ns[-1]
                for other in self.lives)
            for life in self.lives
        )  # fmt: skip

    @property
    def num_ahead(self) -> int:
        """Steps that were handed to the device before the tokens of the step before them were there."""
        pairs = zip(list(self.steps.values()), list(self.steps.values())[1:], strict=False)
        return sum(after.submitted_ns < before.collected_ns for before, after in pairs if after.submitted_ns)

    @property
    def num_wasted(self) -> int:
        """Tokens that were computed for requests that had ended."""
        return sum(step.num_wasted for step in self.steps.values())

    @property
    def step_ms(self) -> float:
        """Median time that the device took for a step of answers alone."""
        return statistics.median(step.ms for step in self.decode_steps) if self.decode_steps else 0.0

    @property
    def idle_ms(self) -> float:
        """Median time between two steps that follow each other, the second of answers alone, on the device."""
        pairs = zip(list(self.steps.values()), list(self.steps.values())[1:], strict=False)
        gaps = [after.device_ns[0] - before.device_ns[1] for before, after in pairs if not after.chunks]
        return statistics.median(gaps) / 1e6 if gaps else 0.0

    @property
    def longest_gap_ms(self) -> float:
        """Longest time between two tokens of one answer."""
        pairs = [pair for life in self.lives for pair in zip(life.committed_ns, life.committed_ns[1:], strict=False)]
        return max((after - before for before, after in pairs), default=0) / 1e6

    @property
    def longest_ttft_ms(self) -> float:
        """Longest time to first token."""
        return max([life.ttft_s * 1e3 for life in self.lives if life.ttft_s is not None] or [0.0])

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


def read_facts(path: Path) -> Facts:
    """The facts of a packed recording."""
    trace = Trace.open(path)
    facts = Facts(trace, requests(trace), num_notes=len(verify(trace).notes))
    for entry in trace.events():
        facts.kinds[entry.kind] += 1
        _take(facts, entry, entry.event)
    return facts


def _take(facts: Facts, entry: Entry, event: Any) -> None:
    match event:
        case events.SchedStep():
            runs = list(zip(ints(event.uids, "i8").tolist(), ints(event.lens, "i4").tolist(), strict=True))
            decodes = tuple(uid for uid, _ in runs[event.num_prefill :])
            facts.steps[event.step] = Step(dict(runs[: event.num_prefill]), decodes)
        case events.BatchSubmitted() if event.step in facts.steps:
            facts.steps[event.step].submitted_ns = event.ns
        case events.BatchCollected() if event.step in facts.steps:
            facts.steps[event.step].collected_ns = event.ns
        case events.EngineForward() if event.step in facts.steps:
            facts.steps[event.step].device_ns = event.forward_start_ns, event.sample_end_ns
        case events.SchedCommitted() if event.step in facts.steps:
            step = facts.steps[event.step]
            step.num_wasted = list(event.kept[len(step.chunks) :]).count(0)
        case events.SchedBlocked():
            facts.blocked[event.reason] += 1
        case events.CacheEvicted():
            facts.num_evicted_pages += len(event.pages) // 4
            facts.num_hot_evictions += any(
                life.admitted_ns and life.admitted_ns < event.ns < (life.released_ns or event.ns)
                for life in facts.lives
            )
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
