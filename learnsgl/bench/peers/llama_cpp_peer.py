"""llama.cpp through `llama-cpp-python`, on the GGUF file that learnsgl's built-in model is made from.

Its weights stay in the file's 4-bit format, so it reads a sixth of the bytes of a float32 step: it is measured beside
the others to show what is possible, not as the same arithmetic. The low-level interface is used, since only that one
can run several sequences in a batch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from learnsgl.bench.peers.base import PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.workload import Request
from learnsgl.errors import StartupError


def is_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("llama_cpp") is not None


def why_not(spec: PeerSpec) -> str | None:
    """Why it can't be measured, if so."""
    if not is_installed():
        return "the package llama-cpp-python isn't installed (pip builds it with a C++ compiler)"
    if spec.gguf is None:
        return "it reads GGUF files only; give one as --model or --gguf"
    return None


class LlamaCppPeer:
    """A llama.cpp context with one sequence for each request of a wave."""

    def __init__(self, spec: PeerSpec) -> None:
        """Load the model.

        Raises:
            PeerUnavailableError: the package or the GGUF file isn't there.
            StartupError: llama.cpp refuses the file.
        """
        reason = why_not(spec)
        if reason is not None:
            raise PeerUnavailableError(reason)
        self._lib: Any = importlib.import_module("llama_cpp")
        lib = self._lib
        self._quiet = lib.llama_log_callback(_say_nothing)
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(spec.gguf).encode(), lib.llama_model_default_params())
        if not self._model:
            raise StartupError(f"llama.cpp can't load {spec.gguf}")
        params = lib.llama_context_default_params()
        params.n_ctx = spec.max_batch * spec.max_len
        params.n_batch = params.n_ctx
        params.n_seq_max = spec.max_batch
        params.n_threads = params.n_threads_batch = spec.num_threads
        self._context = lib.llama_init_from_model(self._model, params)
        self._batch = lib.llama_batch_init(params.n_ctx, 0, 1)
        self._vocab_size = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model)))
        weights = f"{_quantization_of(spec)} (the GGUF file's)"
        self.facts = PeerFacts(spec.name, version("llama-cpp-python"), weights, spec.num_threads, self._vocab_size)

    def run(self, requests: list[Request]) -> Wave:
        """As `Peer`."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        tokens: list[list[int]] = [[] for _ in requests]
        moments: list[tuple[int, float]] = []
        start_s = time.perf_counter()
        running = list(range(len(requests)))
        inputs = [request.prompt_ids for request in requests]
        starts = [0] * len(requests)
        while running:
            sampled = self._step([(seq, starts[seq], inputs[seq]) for seq in running])
            for seq, token in zip(running, sampled, strict=True):
                tokens[seq].append(token)
                starts[seq] += len(inputs[seq])
                inputs[seq] = [token]
            moments.append((sum(map(len, tokens)), time.perf_counter() - start_s))
            running = [seq for seq in running if len(tokens[seq]) < requests[seq].output_len]
        return Wave(moments, tokens)

    def _step(self, runs: list[tuple[int, int, list[int]]]) -> list[int]:
        """One forward pass of runs (sequence, first position, tokens); the likeliest next token of each."""
        batch, index, last = self._batch, 0, []
        for seq, start, ids in runs:
            for position, token in enumerate(ids, start=start):
                batch.token[index], batch.pos[index] = token, position
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, seq
                batch.logits[index] = 0
                index += 1
            batch.logits[index - 1] = 1
            last.append(index - 1)
        batch.n_tokens = index
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise StartupError(f"llama.cpp ended a step of {index} tokens with code {code}")
        return [int(self._logits(place).argmax()) for place in last]

    def _logits(self, place: int) -> npt.NDArray[np.float32]:
        pointer = self._lib.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))

    def close(self) -> None:
        """As `Peer`."""
        if self._context is not None:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
        self._context = None


def _say_nothing(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """In the place of llama.cpp's log, which is long."""


def _quantization_of(spec: PeerSpec) -> str:
    """The format in the middle of a GGUF file's name, by custom; else the whole name."""
    assert spec.gguf is not None, "checked at the start"
    return spec.gguf.stem.rpartition(".")[2]
