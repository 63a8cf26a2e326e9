"""An executor without a model: it checks every page that it is told to read, and its tokens depend on the whole prefix.

The KV of a position is a hash of all tokens up to it, kept under its page as a real engine would. A page that was
freed too early, given twice, or shared wrongly shows as a wrong hash at once.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import SamplingParams
from learnsgl.scheduler.executor import ExecutorInfo, Masks, PromptLogprobs, Step, StepResult, TokenLogprobs

VOCAB_SIZE = 97
EOS_ID = 0


def extend_hash(before: int, token: int) -> int:
    data = before.to_bytes(8, "little") + int(token).to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def next_token(kv: int) -> int:
    return kv % VOCAB_SIZE


def expected_output(prompt: list[int], max_new: int, *, ignore_eos: bool = False) -> list[int]:
    """What the fake generates for a prompt, however it is batched, chunked, cached or overlapped."""
    kv = 0
    for token in prompt:
        kv = extend_hash(kv, token)
    output: list[int] = []
    while len(output) < max_new:
        token = next_token(kv)
        output.append(token)
        if token == EOS_ID and not ignore_eos:
            break
        kv = extend_hash(kv, token)
    return output


def fake_logprob(token: int, position: int) -> float:
    """A log-probability that tells which token it is of, and where that stands."""
    return -(position + token / 1024)


def fake_logprobs(found: list[tuple[int, int]], vocab_size: int = VOCAB_SIZE) -> TokenLogprobs:
    """Those of tokens at positions; the likeliest are the token itself and the two after it."""
    values = np.array([fake_logprob(*one) for one in found], dtype=np.float32)
    top_ids = np.array([[token, token + 1, token + 2] for token, _ in found], dtype=np.int32) % vocab_size
    return TokenLogprobs(values, top_ids, values[:, None] - np.arange(3, dtype=np.float32))


@dataclass(frozen=True)
class FakeTicket:
    number: int


class FakeExecutor:
    """Runs steps when they are collected, strictly in order."""

    def __init__(
        self, num_pages: int = 64, page_size: int = 1, max_model_len: int = 64, num_rows: int = 8, step_s: float = 0.0
    ) -> None:
        self.info = ExecutorInfo(
            model="fake", device="fake", dtype="none", num_pages=num_pages, page_size=page_size,
            max_model_len=max_model_len, vocab_size=VOCAB_SIZE, eos_ids=(EOS_ID,),
        )  # fmt: skip
        self.kv = np.zeros(num_pages * page_size, dtype=np.uint64)
        self.tokens = np.full((num_rows, max_model_len + 1), -1, dtype=np.int64)
        self.tables: dict[int, list[int]] = {}
        self.sampling: dict[int, SamplingParams] = {}
        self.steps: list[Step] = []
        self._pending: list[Step] = []
        self._sampled: set[int] = set()
        self._step_s = step_s

    def submit(self, step: Step) -> FakeTicket:
        assert step.number == len(self.steps) + 1, "steps are numbered without gaps"
        assert len(set(step.rows.tolist())) == len(step.rows), "no row twice"
        assert (step.lens >= 1).all()
        self.steps.append(step)
        self._pending.append(step)
        return FakeTicket(step.number)

    def sample(self, ticket: FakeTicket, masks: Masks | None) -> None:
        self._sampled.add(ticket.number)

    def collect(self, ticket: FakeTicket) -> StepResult:
        step = self._pending.pop(0)
        assert step.number == ticket.number, "tickets are collected in order"
        assert step.number in self._sampled
        start = time.monotonic_ns()
        if self._step_s:
            time.sleep(self._step_s)
        self._prompt_logprobs: list[PromptLogprobs] = []
        tokens = np.array(self._run(step), dtype=np.int32)
        end = time.monotonic_ns()
        rows, ends = step.rows.tolist(), (step.starts + step.lens).tolist()
        sampled = [
            (row, stop) for row, stop, wanted in zip(rows, ends, step.wants_token.tolist(), strict=True) if wanted
        ]
        places = [place for place, (row, _) in enumerate(sampled) if self.sampling[row].logprobs is not None]
        found = [(int(tokens[place]), sampled[place][1]) for place in places]
        logprobs = fake_logprobs(found) if places else None
        return StepResult(
            step.number,
            tokens,
            start,
            end,
            end,
            end,
            logprobs,
            np.array(places, dtype=np.int32),
            tuple(self._prompt_logprobs),
        )

    def close(self) -> None:
        """Nothing is held."""

    def _run(self, step: Step) -> list[int]:
        for row in step.released_rows.tolist():
            del self.tables[row]
        for admission in step.admitted:
            assert admission.row not in self.tables, "the row is free"
            self.tables[admission.row] = admission.cached_pages.tolist()
            self.sampling[admission.row] = admission.sampling
            self.tokens[admission.row] = -1
            self.tokens[admission.row, : len(admission.prompt_ids)] = admission.prompt_ids
        ends = np.cumsum(step.page_counts)
        sampled = []
        for i, row in enumerate(step.rows.tolist()):
            self.tables[row] += step.new_pages[ends[i] - step.page_counts[i] : ends[i]].tolist()
            last = self._run_row(row, int(step.starts[i]), int(step.lens[i]))
            if step.num_prompt_logits is not None and step.num_prompt_logits[i]:
                first = int(step.starts[i]) + 1
                stop = first + int(step.num_prompt_logits[i])
                found = [(int(self.tokens[row, position]), position) for position in range(first, stop)]
                assert all(token >= 0 for token, _ in found), "a log-probability of a token that isn't there yet"
                self._prompt_logprobs.append(PromptLogprobs(row, first, fake_logprobs(found)))
            if step.wants_token[i]:
                token = self._choose(step, row, last)
                self.tokens[row, step.starts[i] + step.lens[i]] = token
                sampled.append(token)
        return sampled

    def _choose(self, step: Step, row: int, kv: int) -> int:
        return next_token(kv)

    def _run_row(self, row: int, start: int, length: int) -> int:
        kv = 0
        for position in range(start):
            kv = extend_hash(kv, int(self.tokens[row, position]))
            assert int(self.kv[self._slot(row, position)]) == kv, f"row {row}: wrong KV at position {position}"
        for position in range(start, start + length):
            token = int(self.tokens[row, position])
            assert token >= 0, f"row {row}: no token at position {position}"
            kv = extend_hash(kv, token)
            self.kv[self._slot(row, position)] = kv
        return kv

    def _slot(self, row: int, position: int) -> int:
        size = self.info.page_size
        return self.tables[row][position // size] * size + position % size


def create_fake_executor(folder: Path, name: str, engine: EngineConfig, scheduler: SchedulerConfig) -> FakeExecutor:
    """For servers in tests: the engine's factory."""
    max_model_len = engine.max_model_len or 256
    num_pages = engine.num_pages or scheduler.max_running_requests * max_model_len // engine.page_size
    return FakeExecutor(
        num_pages, engine.page_size, min(max_model_len, num_pages * engine.page_size), scheduler.max_running_requests
    )
