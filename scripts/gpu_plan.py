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


def plan(out: Path, benches: Sequence[str] = BENCHES, *, workers: int = 0) -> list[Part]:
    """The parts, the most telling first.

    Args:
        out: folder of the results.
        benches: benchmarks that `learnsgl bench` has.
        workers: processes of pytest-xdist that share the tests; 0 where it isn't here.
    """
    results = out / "benchmarks"
    parts = [*_tests(out, workers), *_benchmarks(results), *_recordings(out / "recordings")]
    parts += [_mini_sglang(results / "mini-sglang"), _flashinfer_tests(out), _flashinfer(results / "flashinfer")]
    return [part for part in parts if part.command[:3] != _BENCH or part.command[3] in benches]


_BENCH = ("-m", "learnsgl", "bench")
# Warnings of versions that nobody tried are no failures here. Names and stacks are printed as the tests run, so that a
# test which hangs is known by the last lines of the log.
_PYTEST = (
    "-m", "pytest", "-m", "gpu", "-W", "default", "-vv", "-rfEs", "--tb=short", "-p", "no:cacheprovider",
    "-p", "tests.gpu.lost_context", "-o", "faulthandler_timeout=45",
)  # fmt: skip


def _tests(out: Path, workers: int) -> list[Part]:
    """First, since they say what the figures are worth.

    Kernels come before what is built of them, and each group has processes of its own: a fault in a kernel is the end
    of its process. Most of their time goes into compiling, which workers do side by side; what looks at the clock or
    at the device's memory runs alone.
    """
    shared = ("-n", str(workers)) if workers else ()
    return [
        _test_group(out, "tests-kernels", (*shared, "tests/kernels"), 70),
        _test_group(out, "tests-engine", (*shared, "tests/gpu/test_engine.py"), 80),
        _test_group(out, "tests-streams", ("tests/gpu/test_hazards.py",), 75),
        _test_group(out, "tests-memory", ("tests/gpu/test_memory.py",), 70),
    ]


def _test_group(out: Path, name: str, words: tuple[str, ...], limit_s: float, needs_package: str = "") -> Part:
    own = (f"--timeout={limit_s - 10:g}", f"--junitxml={out / name}.xml")
    return Part(name, (*_PYTEST, *own, *words), limit_s, needs_package=needs_package)


_QWEN = ("--model", "dummy:qwen3-0.6b", "--dtype", "bfloat16", "--device", "cuda")
_NANO = (
    "--quantization", "none", "--workload", "nano-vllm", "--alone", "--floor", "--temperature", "0.6",
    "--max-prefill-length", "8192", "--repeats", "1",
)  # fmt: skip


def _flashinfer_tests(out: Path) -> Part:
    return _test_group(out, "tests-flashinfer", ("tests/gpu/test_flashinfer.py",), 150, needs_package="flashinfer")


def _benchmarks(results: Path) -> list[Part]:
    others = ("--peers", "transformers-paged", "nano-vllm", "vllm", "sglang", "--limit-s", "130")
    tracing = ("--parts", "model", "--batch", "256", "--input-len", "64", "--output-len", "192", "--pairs", "8")
    rates = ("--rate", "16", "64", "128", "--num-requests", "128")
    llama = ("--models", "dummy:llama-3.1-8b", "--no-variants", "--device", "cuda")
    to = ("--out", str(results))
    return [
        Part("steps", (*_BENCH, "steps", "--models", "dummy:qwen3-0.6b", "--device", "cuda", *to), 145),
        Part("offline", (*_BENCH, "offline", *_QWEN, *_NANO, *others, *to), 200),
        Part("steps-llama", (*_BENCH, "steps", *llama, "--out", str(results / "llama")), 70),
        Part("trace", (*_BENCH, "trace", *_QWEN, *tracing, *to), 65),
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
