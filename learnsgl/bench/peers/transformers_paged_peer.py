"""transformers' own continuous batching over a paged KV cache: the way that `generate_batch` takes.

`generate_batch` gives every request the same number of tokens, so its manager is used instead, which takes one for
each. It chooses its attention itself: FlashAttention where that is installed, else paged SDPA.
"""

from __future__ import annotations

import itertools
import time
from importlib.metadata import version
from typing import Any

from learnsgl.bench.peers.base import PeerFacts, PeerSpec, Wave
from learnsgl.bench.peers.whole import check_lengths, weights_in_words
from learnsgl.bench.workload import Request
from learnsgl.errors import ServingError

_WAIT_S = 1.0
_STOP_WAIT_S = 20.0


class TransformersPagedPeer:
    """A Hugging Face model with a manager of continuous batching, which stays between waves."""

    def __init__(self, spec: PeerSpec) -> None:
        """Load the model, size the cache, and capture the CUDA graphs that it captures beforehand."""
        import torch
        from transformers import ContinuousBatchingConfig, GenerationConfig

        torch.set_num_threads(spec.num_threads)
        self._model = _load(spec)
        make_generation: Any = GenerationConfig  # untyped
        sampling = {"temperature": spec.temperature, "top_k": 0} if spec.temperature > 0 else {}
        generation = make_generation(
            do_sample=spec.temperature > 0, eos_token_id=-1, pad_token_id=0, max_new_tokens=spec.max_len, **sampling
        )
        on_gpu = spec.is_on_gpu()
        # on a CPU it would take most of the machine's memory
        room: dict[str, Any] = {} if on_gpu else {"num_blocks": _num_blocks(spec), "max_batch_tokens": 512}
        if on_gpu and spec.max_prefill_length is not None:
            room = {"max_batch_tokens": spec.max_prefill_length}
        self._stack = self._model.continuous_batching_context_manager(
            generation_config=generation,
            continuous_batching_config=ContinuousBatchingConfig(
                max_requests_per_batch=spec.max_batch, allow_block_sharing=False, **room
            ),
            timeout=_STOP_WAIT_S,
        )
        self._manager: Any = self._stack.__enter__()
        self._names = itertools.count()
        attention = "paged " + str(self._model.config._attn_implementation).removeprefix("paged|")
        self.facts = PeerFacts(
            spec.name, version("transformers"), weights_in_words(spec, attention), spec.num_threads,
            int(self._model.config.vocab_size),
        )  # fmt: skip

    def run(self, requests: list[Request]) -> Wave:
        """As `Peer`.

        Raises:
            ServingError: a request failed, or the manager's thread ended.
        """
        names = [f"request-{next(self._names)}" for _ in requests]
        start_s = time.perf_counter()
        for name, request in zip(names, requests, strict=True):
            self._manager.add_request(
                request.prompt_ids, request_id=name, max_new_tokens=request.output_len, record_timestamps=True
            )
        outputs: dict[str, Any] = {}
        while len(outputs) < len(names):
            output = self._manager.get_result(timeout=_WAIT_S)
            if output is None and not self._manager.is_running():
                raise ServingError(f"{self.facts.name}: its thread ended with {len(outputs)} of {len(names)} answers")
            if output is not None and output.is_finished():
                if output.error is not None:
                    raise ServingError(f"{self.facts.name}: {output.error}")
                outputs[output.request_id] = output
        end_s = time.perf_counter()
        tokens = [list(outputs[name].generated_tokens) for name in names]
        check_lengths(self.facts.name, requests, tokens)
        stamps = [list(outputs[name].timestamps or ()) for name in names]
        return Wave(moments_of(stamps, sum(map(len, tokens)), start_s, end_s), tokens)

    def close(self) -> None:
        """As `Peer`."""
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.__exit__(None, None, None)
            self._model = None


_BLOCK_LEN = 256
"""Tokens of a block, as all versions have it; the option for it has changed its name."""


def _num_blocks(spec: PeerSpec) -> int:
    """Blocks that hold a whole wave."""
    return spec.max_batch * (-(-spec.max_len // _BLOCK_LEN) + 1)


def _load(spec: PeerSpec) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = torch.device("cuda" if spec.is_on_gpu() else "cpu")
    model: Any = AutoModelForCausalLM  # untyped
    dtype = getattr(torch, spec.dtype)
    if spec.has_weights:
        return model.from_pretrained(spec.model_folder, dtype=dtype, attn_implementation="sdpa").to(device).eval()
    config = AutoConfig.from_pretrained(spec.model_folder)
    with device:
        return model.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def moments_of(
    stamps: list[list[float]], num_tokens: int, start_s: float, end_s: float
) -> list[tuple[int, float]]:  # fmt: skip
    """Tokens so far, and seconds, after each step.

    A step gives a request one token at most, and each is stamped by itself: so a step ends before the first stamp of a
    request that it has a stamp of already.

    Args:
        stamps: seconds of each token of each request.
        num_tokens: how many there are to be; with another number, or another clock, only the end is told.
        start_s: when the requests were handed in.
        end_s: when the last answer was there.
    """
    told = sorted((stamp, place) for place, mine in enumerate(stamps) for stamp in mine)
    if len(told) != num_tokens or told[0][0] < start_s or told[-1][0] > end_s:
        return [(num_tokens, end_s - start_s)]
    moments: list[tuple[int, float]] = []
    seen: set[int] = set()
    for count, (stamp, place) in enumerate(told, start=1):
        if place in seen:
            seen = set()
        if not seen:
            moments.append((count, stamp - start_s))
        seen.add(place)
        moments[-1] = (count, stamp - start_s)
    return moments
