"""The options of `learnsgl bench steps`, declared; `bench/command.py` calls `add_steps_options`."""

from __future__ import annotations

import argparse

from learnsgl.bench.arguments import add_device, add_number, add_numbers, add_threads_and_seed

STEPS_EPILOG = """\
All times are the device's own, from the recording of the run. Beside them stands the floor: what a decode step must
read (the weights once, the KV of its contexts), at the bandwidth that a large copy reaches in the same run.

examples:
  learnsgl bench steps --models tiny-random --dtype float32 --batch 1 4 --context 64 --steps 16 --prefill-len 128
  learnsgl bench steps --out results              on a GPU: the figures of docs/benchmarks.md
"""


def add_steps_options(parser: argparse.ArgumentParser) -> None:
    """Add all options."""
    parser.epilog, parser.formatter_class = STEPS_EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--models", nargs="+", default=["dummy:qwen3-0.6b", "dummy:llama-3.1-8b"], metavar="MODEL",
        help="as for learnsgl serve --model; the first one also with overlap and CUDA graphs off "
        "(default: dummy:qwen3-0.6b dummy:llama-3.1-8b)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16",
        help="of weights and KV (default: bfloat16)",
    )  # fmt: skip
    add_device(parser)
    add_numbers(parser, "--batch", [1, 8, 16, 64, 256], "requests that decode at once")
    add_number(parser, "--context", 1024, "tokens that each attends to, in the middle of its steps")
    add_number(parser, "--steps", 64, "decode steps of each batch")
    add_number(parser, "--prefill-len", 8192, "tokens of the long prompt, which is computed in one step")
    add_number(parser, "--prefill-repeats", 5, "how often")
    parser.add_argument(
        "--variants", action=argparse.BooleanOptionalAction, default=True,
        help="measure the first model with overlap and graphs off, too (default: yes)",
    )  # fmt: skip
    parser.add_argument(
        "--attention-backend", metavar="PREFILL[,DECODE]",
        help="as for learnsgl serve, such as flashinfer (default: the engine's own choice)",
    )  # fmt: skip
    add_threads_and_seed(parser)
