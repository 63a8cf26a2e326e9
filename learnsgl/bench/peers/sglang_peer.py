"""SGLang through its offline `Engine`."""

from __future__ import annotations

import importlib
from typing import Any

from learnsgl.bench.peers.base import LEAST_CONTEXT, PeerSpec
from learnsgl.bench.peers.whole import WholePeer, read_vocab_size, require, require_gpu, weights_in_words
from learnsgl.bench.workload import Request


def start_sglang(spec: PeerSpec) -> WholePeer:
    """Start it.

    Raises:
        PeerUnavailableError: it isn't installed, or there is no GPU.
    """
    version = require("sglang", "sglang", why="pip install sglang")
    require_gpu(spec)
    options = {"chunked_prefill_size": spec.max_prefill_length} if spec.max_prefill_length is not None else {}
    engine: Any = importlib.import_module("sglang").Engine(
        model_path=str(spec.model_folder), load_format="auto" if spec.has_weights else "dummy", dtype=spec.dtype,
        context_length=max(LEAST_CONTEXT, spec.max_len), max_running_requests=max(256, spec.max_batch),
        cuda_graph_max_bs=spec.max_batch, skip_tokenizer_init=True, **options,
    )  # fmt: skip

    def generate(requests: list[Request]) -> list[list[int]]:
        sampling = [
            {"temperature": spec.temperature, "ignore_eos": True, "max_new_tokens": request.output_len}
            for request in requests
        ]
        prompts = [request.prompt_ids for request in requests]
        return [answer["output_ids"] for answer in engine.generate(input_ids=prompts, sampling_params=sampling)]

    return WholePeer(spec, version, weights_in_words(spec), read_vocab_size(spec), generate, engine.shutdown)
