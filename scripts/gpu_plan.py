"""What `make gpu-check` runs on a machine with a GPU: the parts, what each may take, and in which order.

The most telling come first, and all limits together fit the 20 minutes, so that a part that takes its whole time costs
no other. `gpu_check.py` runs them; nothing but the standard library is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MINUTES = 20.0
OVERHEAD_S = 40.0
"""To unpack what was brought, and to look what is there."""
RECORDINGS = (
    "engine_start_gpu", "decode_gpu", "overlap_on_gpu", "overlap_off_gpu", "graphs_on", "graphs_off",
    "attention_triton", "attention_torch", "long_prompts_gpu", "shared_prefix_gpu",
)  # fmt: skip
BENCHES = ("steps", "offline", "trace", "kernels", "online")
"""Benchmarks that are run, if this version has them."""


@dataclass(frozen=True)
class Part:
    """One thing to run.

    Attributes:
        name: of its log file, too.
        command: its words, after the interpreter's.
        limit_s: seconds that it may take.
        needs_model: whether it wants the built-in model.
        needs_package: a package without which there is nothing to run; empty for none.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    needs_model: bool = False
    needs_package: str = ""


def plan(out: Path, benches: Sequence[str] = BENCHES) -> list[Part]:
    """The parts, the most telling first.

    Args:
        out: folder of the results.
        benches: benchmarks that `learnsgl bench` has.
    """
    results = out / "benchmarks"
    parts = [_tests(out), *_benchmarks(results), *_recordings(out / "recordings")]
    parts += [_mini_sglang(results / "mini-sglang"), _flashinfer_tests(out), _flashinfer(results / "flashinfer")]
    return [part for part in parts if part.command[:3] != _BENCH or part.command[3] in benches]


_BENCH = ("-m", "learnsgl", "bench")
# warnings of versions that nobody tried are no failures here
_PYTEST = ("-m", "pytest", "-m", "gpu", "-W", "default", "-rfEs", "--tb=short", "-p", "no:cacheprovider")


def _tests(out: Path) -> Part:
    """First, since it fills the cache of compiled kernels for the others, and says what their figures are worth."""
    words = ("--timeout=120", f"--junitxml={out / 'tests.xml'}", "--ignore=tests/gpu/test_flashinfer.py")
    return Part("tests", (*_PYTEST, *words, "tests/gpu", "tests/kernels"), 240)


def _flashinfer_tests(out: Path) -> Part:
    words = ("--timeout=140", f"--junitxml={out / 'tests-flashinfer.xml'}", "tests/gpu/test_flashinfer.py")
    return Part("tests-flashinfer", (*_PYTEST, *words), 150, needs_package="flashinfer")


_QWEN = ("--model", "dummy:qwen3-0.6b", "--dtype", "bfloat16", "--device", "cuda")
_NANO = (
    "--quantization", "none", "--workload", "nano-vllm", "--alone", "--floor", "--temperature", "0.6",
    "--max-prefill-length", "8192", "--repeats", "1",
)  # fmt: skip


def _benchmarks(results: Path) -> list[Part]:
    others = ("--peers", "transformers-paged", "nano-vllm", "vllm", "sglang", "--limit-s", "130")
    tracing = ("--parts", "model", "--batch", "256", "--input-len", "64", "--output-len", "192", "--pairs", "8")
    rates = ("--rate", "16", "64", "128", "--num-requests", "128")
    llama = ("--models", "dummy:llama-3.1-8b", "--no-variants", "--device", "cuda")
    to = ("--out", str(results))
    return [
        Part("steps", (*_BENCH, "steps", "--models", "dummy:qwen3-0.6b", "--device", "cuda", *to), 150),
        Part("offline", (*_BENCH, "offline", *_QWEN, *_NANO, *others, *to), 245),
        Part("steps-llama", (*_BENCH, "steps", *llama, "--out", str(results / "llama")), 75),
        Part("trace", (*_BENCH, "trace", *_QWEN, *tracing, *to), 70),
        Part("kernels", (*_BENCH, "kernels", "--sizes", "few", *to), 80),
        Part("online", (*_BENCH, "online", *rates, *to), 60, needs_model=True),
    ]


def _mini_sglang(results: Path) -> Part:
    """By itself, since it may compile for minutes; what it has compiled by then stays in the cache."""
    words = ("--peers", "mini-sglang", "--limit-s", "230", "--out", str(results))
    return Part("mini-sglang", (*_BENCH, "offline", *_QWEN, *_NANO, *words), 300, needs_package="minisgl")


def _flashinfer(results: Path) -> Part:
    words = ("--models", "dummy:qwen3-0.6b", "--no-variants", "--attention-backend", "flashinfer")
    to = ("--device", "cuda", "--out", str(results))
    return Part("steps-flashinfer", (*_BENCH, "steps", *words, *to), 150, needs_package="flashinfer")


def _recordings(folder: Path) -> list[Part]:
    record = ("traces/record.py", "--out", str(folder))
    return [Part(f"record-{name}", (*record, name), 24, needs_model=True) for name in RECORDINGS]
