"""An executor that repeats the prompt, byte by byte, for servers in tests: every request has its own expected text.

The engine's seed is the time that a step takes, in milliseconds. A prompt that holds the byte `\\x07` breaks it, with
`\\x06` it never returns, and with `\\x05` it spins for ever. What stands between the last `\\x02` of a prompt and the
next `\\x03` is its answer, which then ends. Where a mask rules a token out, it gives the first that is allowed.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import Int32Array, SamplingParams
from learnsgl.errors import EngineError, OutOfMemoryError
from learnsgl.hub.tiny import EOS, IM_END
from learnsgl.scheduler.executor import ExecutorInfo, Masks, PromptLogprobs, Step, StepResult
from tests.fakes import fake_logprobs

SPINNING_BYTE, HANGING_BYTE, BREAKING_BYTE = 5, 6, 7
SCRIPT_BEGIN, SCRIPT_END = b"\x02", b"\x03"
CONTEXT_LEN = 256


def echo(prompt: str, num_tokens: int) -> str:
    """The text that a completion of an ASCII prompt gets."""
    return (prompt * (num_tokens // len(prompt) + 1))[:num_tokens]


@dataclass(frozen=True)
class EchoTicket:
    number: int
    step: Step


class EchoExecutor:
    def __init__(self, num_pages: int, page_size: int, step_s: float, context_len: int) -> None:
        self.info = ExecutorInfo(
            model="echo", device="fake", dtype="none", num_pages=num_pages, page_size=page_size,
            max_model_len=min(context_len, num_pages * page_size), vocab_size=260, eos_ids=(EOS, IM_END),
        )  # fmt: skip
        self._step_s = step_s
        self._prompts: dict[int, Int32Array] = {}
        self._sampling: dict[int, SamplingParams] = {}
        self._masks: dict[int, Masks] = {}

    def submit(self, step: Step) -> EchoTicket:
        return EchoTicket(step.number, step)

    def sample(self, ticket: EchoTicket, masks: Masks | None) -> None:
        """Only keeps the masks: everything happens in `collect`."""
        if masks is not None:
            self._masks[ticket.number] = masks

    def collect(self, ticket: EchoTicket) -> StepResult:
        step, start = ticket.step, time.monotonic_ns()
        time.sleep(self._step_s)
        for admission in step.admitted:
            if BREAKING_BYTE in admission.prompt_ids:
                raise EngineError("the prompt broke the engine")
            if HANGING_BYTE in admission.prompt_ids:
                threading.Event().wait()
            while SPINNING_BYTE in admission.prompt_ids:
                pass
            self._prompts[admission.row] = admission.prompt_ids
            self._sampling[admission.row] = admission.sampling
        ends = (step.starts + step.lens).tolist()
        allowed = self._allowed(step.number)
        tokens = [
            _permitted(self._next(self._prompts[row], end), allowed.get(row))
            for row, end, wanted in zip(step.rows.tolist(), ends, step.wants_token.tolist(), strict=True)
            if wanted
        ]
        end = time.monotonic_ns()
        wanting = [
            (row, end)
            for row, end, wanted in zip(step.rows.tolist(), ends, step.wants_token.tolist(), strict=True)
            if wanted
        ]
        places = [place for place, (row, _) in enumerate(wanting) if self._sampling[row].logprobs is not None]
        found = [(int(tokens[place]), wanting[place][1]) for place in places]
        return StepResult(
            step.number,
            np.array(tokens, dtype=np.int32),
            start,
            end,
            end,
            end,
            fake_logprobs(found, self.info.vocab_size) if places else None,
            np.array(places, dtype=np.int32),
            self._prompt_logprobs(step),
        )

    def _allowed(self, number: int) -> dict[int, npt.NDArray[np.uint8]]:
        """For each constrained row of a step a 1 at each token that it may take: uint8 [at least V]."""
        masks = self._masks.pop(number, None)
        if masks is None or not len(masks.rows):
            return {}
        packed = np.frombuffer(masks.allowed, dtype=np.uint8).reshape(len(masks.rows), -1)
        return dict(zip(masks.rows.tolist(), np.unpackbits(packed, axis=1, bitorder="little"), strict=True))

    @staticmethod
    def _next(prompt: Int32Array, end: int) -> int:
        """The token at a place: of the prompt's script, if it has one, or of the prompt again."""
        text = bytes(np.minimum(prompt, 255).astype(np.uint8))
        start = text.rfind(SCRIPT_BEGIN)
        if start < 0:
            return int(prompt[end % len(prompt)])
        script = text[start + 1 : text.index(SCRIPT_END, start)]
        place = end - len(prompt)
        return script[place] if place < len(script) else IM_END

    def _prompt_logprobs(self, step: Step) -> tuple[PromptLogprobs, ...]:
        if step.num_prompt_logits is None:
            return ()
        parts = []
        for row, start, num in zip(
            step.rows.tolist(), step.starts.tolist(), step.num_prompt_logits.tolist(), strict=True
        ):
            found = [(int(self._prompts[row][position]), position) for position in range(start + 1, start + 1 + num)]
            parts += [PromptLogprobs(row, start + 1, fake_logprobs(found, self.info.vocab_size))] if num else []
        return tuple(parts)

    def close(self) -> None:
        """Nothing is held."""


def _permitted(token: int, allowed: npt.NDArray[np.uint8] | None) -> int:
    """The token, or the first that is allowed where it isn't."""
    return token if allowed is None or allowed[token] else int(np.flatnonzero(allowed)[0])


def create_echo_executor(folder: Path, name: str, engine: EngineConfig, scheduler: SchedulerConfig) -> EchoExecutor:
    if engine.num_pages == 1:
        raise OutOfMemoryError("one page is too little")
    if engine.num_pages == 2:
        raise SystemExit(9)
    if engine.num_pages == 3:
        threading.Event().wait()  # loads for ever
    context_len = engine.max_model_len or CONTEXT_LEN
    return EchoExecutor(engine.num_pages or 4096, engine.page_size, engine.seed / 1000, context_len)
