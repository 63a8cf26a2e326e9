"""Mini-SGLang through its offline `LLM`, with the options of its own offline benchmark.

It isn't on PyPI: its folder `python` must be on PYTHONPATH, beside flashinfer-python and apache-tvm-ffi, and it
compiles its kernels with the machine's nvcc. Made for version 0.1.0 of https://github.com/sgl-project/mini-sglang.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from learnsgl.bench.peers.base import LEAST_CONTEXT, PeerSpec
from learnsgl.bench.peers.whole import WholePeer, read_vocab_size, require, require_gpu, weights_in_words
from learnsgl.bench.workload import Request

_MAX_EXTEND_TOKENS = 16384


def start_mini_sglang(spec: PeerSpec) -> WholePeer:
    """Start it.

    Raises:
        PeerUnavailableError: a package that it needs isn't there, or no GPU.
    """
    version = require("minisgl", "minisgl", why="put the folder python of its repository on PYTHONPATH")
    require("flashinfer", why="pip install flashinfer-python")
    require("tvm_ffi", why="pip install apache-tvm-ffi")
    require_gpu(spec)
    import torch

    core, api = importlib.import_module("minisgl.core"), importlib.import_module("minisgl.llm")
    # its choice for a Hopper GPU is FlashAttention for prompts, which lies in sgl-kernel
    backend = "auto" if importlib.util.find_spec("sgl_kernel") else "fi"
    llm: Any = api.LLM(
        str(spec.model_folder), dtype=getattr(torch, spec.dtype), use_dummy_weight=not spec.has_weights,
        attention_backend=backend, max_running_req=spec.max_batch, cuda_graph_max_bs=spec.max_batch,
        max_seq_len_override=max(LEAST_CONTEXT, spec.max_len),
        max_extend_tokens=spec.max_prefill_length or _MAX_EXTEND_TOKENS,
    )  # fmt: skip

    def generate(requests: list[Request]) -> list[list[int]]:
        sampling = [
            core.SamplingParams(temperature=spec.temperature, ignore_eos=True, max_tokens=request.output_len)
            for request in requests
        ]
        answers = llm.generate([request.prompt_ids for request in requests], sampling)
        return [answer["token_ids"] for answer in answers]

    weights = weights_in_words(spec, "FlashInfer" if backend == "fi" else "")
    return WholePeer(spec, version, weights, read_vocab_size(spec), generate, llm.shutdown)
