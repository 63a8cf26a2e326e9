"""transformers' `generate` on the same weights: what most people begin with, and what learnsgl must beat.

Its defaults are kept (SDPA attention, a dynamic KV cache). Prompts of unequal length are padded on the left, and a
wave runs until the longest answer is complete, as `generate` does it.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from learnsgl.bench.peers.base import PeerFacts, PeerSpec, Wave
from learnsgl.bench.workload import Request


class TransformersPeer:
    """A Hugging Face model with `generate`."""

    def __init__(self, spec: PeerSpec) -> None:
        """Load the model."""
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(spec.num_threads)
        self._torch = torch
        model: Any = AutoModelForCausalLM  # untyped
        self._model = model.from_pretrained(spec.model_folder, dtype=getattr(torch, spec.dtype)).eval()
        self._model.generation_config.eos_token_id = None  # every answer is as long as it is asked to be
        vocab_size = int(self._model.config.vocab_size)
        self.facts = PeerFacts(spec.name, version("transformers"), spec.dtype, spec.num_threads, vocab_size)

    def run(self, requests: list[Request]) -> Wave:
        """As `Peer`."""
        torch = self._torch
        wanted = [request.output_len for request in requests]
        longest = max(len(request.prompt_ids) for request in requests)
        ids, mask = [], []
        for request in requests:
            num_padding = longest - len(request.prompt_ids)
            ids.append([0] * num_padding + request.prompt_ids)
            mask.append([0] * num_padding + [1] * len(request.prompt_ids))
        seconds: list[float] = []
        start_s = time.perf_counter()

        def note(input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            """Called after each token, as a stopping criterion that never stops."""
            seconds.append(time.perf_counter() - start_s)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

        with torch.inference_mode():
            output = self._model.generate(
                torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False, max_new_tokens=max(wanted),
                pad_token_id=0, stopping_criteria=[note],
            )  # fmt: skip
        rows = output[:, longest:].tolist()
        moments = [(sum(min(step, n) for n in wanted), s) for step, s in enumerate(seconds, start=1)]
        return Wave(moments, [row[:n] for row, n in zip(rows, wanted, strict=True)])

    def close(self) -> None:
        """As `Peer`."""
        self._model = None
