"""The recordings of a GPU: made by `make gpu-check` on a machine that has one, and kept once they were.

They name the device, so that none is made on a CPU by mistake. What they must show holds on any GPU.
"""

from __future__ import annotations

from dataclasses import replace

from recordings import workloads as work
from recordings.claims import Claim, Recording, all_answered, same_work

_GPU = ("--device", "cuda", "--num-pages", "8192")
_NUM_TOKENS = 160
"""Of an answer: a step takes a GPU about a millisecond, and eight requests take tens of them to arrive."""
_EIGHT = tuple(tuple(replace(ask, max_tokens=_NUM_TOKENS) for ask in asks) for asks in work.EIGHT_AT_ONCE)
_ENDING_EARLY = tuple(tuple(replace(ask, max_tokens=_NUM_TOKENS) for ask in asks) for asks in work.ENDING_EARLY)
_LONG_AND_SHORT = tuple(
    tuple(replace(ask, at_s=ask.at_s / 10, max_tokens=2 * ask.max_tokens) for ask in asks)
    for asks in work.LONG_AND_SHORT
)
"""Ten times as fast as on a CPU, so that long prompts come while short ones are being answered."""


def _in_graphs(share_text: str) -> str:
    return f"{{f.num_in_graphs}} of {{f.steps.num}} steps replayed a CUDA graph{share_text}"


def _recording(
    rounds: tuple[work.Round, ...], *claims: Claim, options: tuple[str, ...] = (), partner: str | None = None
) -> Recording:
    return Recording(rounds, claims, (*_GPU, *options), partner=partner)


GPU_RECORDINGS = {
    "engine_start_gpu": Recording(
        work.TINY,
        (
            Claim(
                "Start-up on a GPU: weights, a trial of the largest step, KV pages from what it left, "
                "{f.kinds[graph.captured]} CUDA graphs with the largest first, the warm-up.",
                lambda f, o: f.kinds["graph.captured"] > 0 and f.kinds["clock.anchor"] > 0 and all_answered(f),
            ),
        ),
        ("--device", "cuda"),
    ),
    "decode_gpu": _recording(
        _EIGHT,
        Claim(
            f"Eight answers decode together: {_in_graphs('')}; the device waits {{f.steps.idle_ms:.3f}} ms between "
            "two steps in the median.",
            lambda f, o: f.num_in_graphs > f.steps.num / 2 and f.steps.largest_batch == 8 and all_answered(f),
        ),
    ),
    "overlap_on_gpu": _recording(
        _ENDING_EARLY,
        Claim(
            "{f.steps.num_ahead} of {f.steps.num} steps were submitted before the tokens of the step ahead were there; "
            "the device waits {f.steps.idle_ms:.3f} ms between two steps (without overlap {o.steps.idle_ms:.3f} ms).",
            lambda f, o: f.steps.num_ahead > f.steps.num / 2 and f.steps.idle_ms < o.steps.idle_ms,
        ),
        options=("--overlap",),
        partner="overlap_off_gpu",
    ),
    "overlap_off_gpu": _recording(
        _ENDING_EARLY,
        Claim(
            "The workload of `overlap_on_gpu`; no step is submitted before the one ahead of it was taken over, and the "
            "device waits {f.steps.idle_ms:.3f} ms between two steps, while the scheduler works.",
            lambda f, o: same_work(f, o) and f.steps.num_ahead == 0,
        ),
        options=("--no-overlap",),
        partner="overlap_on_gpu",
    ),
    "graphs_on": _recording(
        _EIGHT,
        Claim(
            f"{_in_graphs('')}, {{f.num_padded}} of them padded to a larger batch.",
            lambda f, o: f.num_in_graphs > 0 and all_answered(f),
        ),
        partner="graphs_off",
    ),
    "graphs_off": _recording(
        _EIGHT,
        Claim(
            "The workload of `graphs_on`, every kernel launched by itself.",
            lambda f, o: f.num_in_graphs == 0 and same_work(f, o),
        ),
        options=("--cuda-graph-max-bs", "0"),
        partner="graphs_on",
    ),
    "attention_triton": _recording(
        _EIGHT,
        Claim("Attention in Triton's kernels, without graphs.", lambda f, o: f.num_in_graphs == 0 and same_work(f, o)),
        options=("--attention-backend", "triton", "--cuda-graph-max-bs", "0"),
        partner="attention_torch",
    ),
    "attention_torch": _recording(
        _EIGHT,
        Claim(
            "The workload of `attention_triton` with the attention of plain torch, which gathers contexts.",
            lambda f, o: f.num_in_graphs == 0 and same_work(f, o),
        ),
        # the option for graphs changes nothing here; the two recordings shall differ in one option alone
        options=("--attention-backend", "torch", "--cuda-graph-max-bs", "0"),
        partner="attention_triton",
    ),
    "long_prompts_gpu": _recording(
        _LONG_AND_SHORT,
        Claim(
            "Prompts of {f.long_prompts[0]} to {f.longest_prompt:,} tokens among short ones, in chunks of at most "
            "{f.steps.largest} tokens; {f.num_in_graphs} steps of answers replayed a CUDA graph.",
            lambda f, o: f.steps.largest == 256 and f.num_in_graphs > 0 and all_answered(f),
        ),
        options=("--max-prefill-length", "256"),
    ),
    "shared_prefix_gpu": _recording(
        work.SHARED_PREFIXES,
        Claim(
            "{f.num_cached_tokens:,} of {f.num_prompt_tokens:,} prompt tokens came from the cache.",
            lambda f, o: f.num_cached_tokens > 0 and all_answered(f),
        ),
    ),
}
