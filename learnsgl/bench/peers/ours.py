"""learnsgl itself, through its offline API: the server's scheduler and engine, in one process."""

from __future__ import annotations

import importlib
import time
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from learnsgl.bench.peers.base import PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.workload import Request
from learnsgl.config import EngineConfig
from learnsgl.core import SamplingParams
from learnsgl.llm import LLM
from learnsgl.offline.completion import Progress

MIN_PAGES = 1024
FEWEST_ROWS = 64
"""Table rows that the engine has at least, where it isn't told how many."""


def has_quantization() -> bool:
    """Whether the engine offers `--quantization`."""
    return any(f.name == "quantization" for f in fields(EngineConfig))


def _room(spec: PeerSpec) -> dict[str, Any]:
    """Options that let a whole wave run at once.

    The KV cache of an engine that isn't alone, or on a CPU, holds two waves. Alone on a GPU it takes its share of the
    memory, as the server's does.
    """
    room: dict[str, Any] = {}
    if spec.max_batch > FEWEST_ROWS:
        room["max_running_requests"] = spec.max_batch
    importlib.import_module("learnsgl.engine")  # before torch, since it says how torch's idle threads wait
    if not (spec.alone and spec.is_on_gpu()):
        room["num_pages"] = max(MIN_PAGES, 2 * spec.max_batch * spec.max_len)
    if spec.max_prefill_length is not None:
        room["max_prefill_length"] = spec.max_prefill_length
    return room


class LearnsglPeer:
    """An `LLM` with the options of the server as they are, but for what lets a whole wave run at once."""

    def __init__(self, spec: PeerSpec) -> None:
        """Load the model.

        Raises:
            PeerUnavailableError: quantisation was asked for, and the engine doesn't have it.
            LearnsglError: it can't start.
        """
        options: dict[str, Any] = {}
        if spec.quantization != "none":
            if not has_quantization():
                raise PeerUnavailableError(f"this engine has no quantization {spec.quantization}")
            options["quantization"] = spec.quantization
        if spec.trace is not None:
            options["trace"] = spec.trace
        self._temperature = spec.temperature
        self._llm = LLM(
            spec.model, executor_factory=spec.executor_factory, device=spec.device, dtype=spec.dtype,
            num_threads=spec.num_threads, **{**_room(spec), **options, **spec.options},
        )  # fmt: skip
        weights = spec.dtype if spec.quantization == "none" else f"{spec.quantization} weights, {spec.dtype} otherwise"
        vocab_size = self._llm.info.vocab_size
        self.facts = PeerFacts(spec.name, version("learnsgl"), weights, spec.num_threads, vocab_size)

    def run(self, requests: list[Request]) -> Wave:
        """As `Peer`."""
        moments: list[tuple[int, float]] = []
        start_s = time.perf_counter()

        def note(progress: Progress) -> None:
            if not moments or progress.num_tokens > moments[-1][0]:
                moments.append((progress.num_tokens, time.perf_counter() - start_s))

        sampling = [
            SamplingParams(temperature=self._temperature, max_tokens=request.output_len, ignore_eos=True)
            for request in requests
        ]
        completions = self._llm.generate([request.prompt_ids for request in requests], sampling, progress=note)
        for completion in completions:
            completion.raise_for_error()
        return Wave([moment for moment in moments if moment[0]], [completion.token_ids for completion in completions])

    def close(self) -> None:
        """As `Peer`."""
        self._llm.close()
