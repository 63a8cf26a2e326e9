"""vLLM through its offline `LLM`."""

from __future__ import annotations

import importlib
from typing import Any

from learnsgl.bench.peers.base import LEAST_CONTEXT, PeerSpec
from learnsgl.bench.peers.whole import WholePeer, read_vocab_size, require, require_gpu, weights_in_words
from learnsgl.bench.workload import Request


def start_vllm(spec: PeerSpec) -> WholePeer:
    """Start it.

    Raises:
        PeerUnavailableError: it isn't installed, or there is no GPU.
    """
    version = require("vllm", "vllm", why="pip install vllm")
    require_gpu(spec)
    package = importlib.import_module("vllm")
    options = {"max_num_batched_tokens": spec.max_prefill_length} if spec.max_prefill_length is not None else {}
    llm: Any = package.LLM(
        model=str(spec.model_folder), load_format="auto" if spec.has_weights else "dummy", dtype=spec.dtype,
        max_model_len=max(LEAST_CONTEXT, spec.max_len), max_num_seqs=max(256, spec.max_batch), **options,
    )  # fmt: skip

    def generate(requests: list[Request]) -> list[list[int]]:
        sampling = [
            package.SamplingParams(
                temperature=spec.temperature, ignore_eos=True, max_tokens=request.output_len, detokenize=False
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        return [answer.outputs[0].token_ids for answer in llm.generate(prompts, sampling, use_tqdm=False)]

    return WholePeer(spec, version, weights_in_words(spec), read_vocab_size(spec), generate, lambda: None)
