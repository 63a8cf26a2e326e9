"""nano-vLLM through its `LLM`, with the options of its own benchmark.

It isn't on PyPI: its repository must be on PYTHONPATH, and flash-attn installed, which pip builds with nvcc. It samples
only, and runs Qwen3 only.
"""

from __future__ import annotations

import importlib
from typing import Any

from learnsgl.bench.peers.base import LEAST_CONTEXT, PeerSpec, PeerUnavailableError
from learnsgl.bench.peers.whole import WholePeer, read_vocab_size, require, require_gpu, weights_in_words
from learnsgl.bench.workload import Request


def start_nano_vllm(spec: PeerSpec) -> WholePeer:
    """Start it.

    Raises:
        PeerUnavailableError: a package that it needs isn't there, or no GPU, or greedy answers were asked for.
    """
    version = require("nanovllm", "nano-vllm", why="put its repository on PYTHONPATH")
    require("flash_attn", why="pip install flash-attn builds it with nvcc")
    require_gpu(spec)
    if spec.temperature <= 0:
        raise PeerUnavailableError("it samples only; give a --temperature above 0")
    package = importlib.import_module("nanovllm")
    options = {"max_num_batched_tokens": spec.max_prefill_length} if spec.max_prefill_length is not None else {}
    llm: Any = package.LLM(
        str(spec.model_folder), enforce_eager=False, max_model_len=max(LEAST_CONTEXT, spec.max_len),
        max_num_seqs=max(512, spec.max_batch), **options,
    )  # fmt: skip

    def generate(requests: list[Request]) -> list[list[int]]:
        sampling = [
            package.SamplingParams(temperature=spec.temperature, ignore_eos=True, max_tokens=request.output_len)
            for request in requests
        ]
        answers = llm.generate([request.prompt_ids for request in requests], sampling, use_tqdm=False)
        return [answer["token_ids"] for answer in answers]

    # without a checkpoint, its weights stay what the memory held
    weights = weights_in_words(spec, "" if spec.has_weights else "uninitialised")
    return WholePeer(spec, version, weights, read_vocab_size(spec), generate, lambda: None)
