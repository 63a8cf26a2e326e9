"""The options of `learnsgl bench offline`, declared; nothing is measured or imported for measuring here.

`bench/command.py` calls `add_offline_options`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from learnsgl.bench.arguments import add_device, add_model, add_number, add_numbers, positive

PEERS = ("transformers", "llama.cpp", "transformers-paged", "mini-sglang", "nano-vllm", "vllm", "sglang")
DEFAULT_PEERS = ("transformers", "llama.cpp")
WORKLOADS = ("random", "nano-vllm")
QUANTIZATIONS = ("none", "int8")
OFFLINE_EPILOG = """\
Each engine runs in a process of its own; one that can't run here is left out, and a line says why.

examples:
  learnsgl bench offline --batch 8 --input-len 64:256 --output-len 32 --quantization int8 --peers transformers
  learnsgl bench offline --model dummy:qwen3-0.6b --dtype bfloat16 --quantization none --workload nano-vllm --alone \\
      --floor --temperature 0.6 --max-prefill-length 8192 --repeats 1 --peers transformers-paged mini-sglang

The second one is for a GPU: --workload nano-vllm has 256 requests at once, of 100 to 1,024 tokens in and out (142,827
in and 133,966 out in all); --alone gives each engine the whole device; --floor measures a large copy and a large
matrix product first, and tells the least time that the workload can take there. Of the peers, transformers-paged is
transformers' continuous batching. mini-sglang and nano-vllm are used from their source, which PYTHONPATH must name.
"""


def add_offline_options(parser: argparse.ArgumentParser) -> None:
    """Add all options."""
    parser.epilog, parser.formatter_class = OFFLINE_EPILOG, argparse.RawDescriptionHelpFormatter
    add_model(parser)
    add_device(parser)
    _add_workload(parser.add_argument_group("workload"))
    parser.add_argument(
        "--quantization", nargs="+", choices=QUANTIZATIONS, default=list(QUANTIZATIONS),
        help="learnsgl is measured once with each (default: none int8)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(DEFAULT_PEERS),
        help=f"engines beside it (default: {' '.join(DEFAULT_PEERS)}, where they are installed)",
    )  # fmt: skip
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="for llama.cpp; by default the built-in model's own")
    parser.add_argument(
        "--max-prefill-length", type=positive, metavar="N", help="most tokens of a step (default: each engine's own)"
    )
    parser.add_argument(
        "--alone", action="store_true",
        help="one engine after the other, each with the device for itself, instead of all loaded and in turns",
    )  # fmt: skip
    parser.add_argument("--floor", action="store_true", help="tell the least time that the workload can take")
    parser.add_argument(
        "--limit-s", type=positive, metavar="N",
        help="seconds that an engine may take to start, and to answer; then it is ended (default: any)",
    )  # fmt: skip
    add_number(parser, "--repeats", 6, "rounds that count, after one that doesn't")


def _add_workload(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workload", choices=WORKLOADS, default="random",
        help="random: of the lengths below; nano-vllm: that of nano-vLLM's own benchmark (default: random)",
    )  # fmt: skip
    add_numbers(group, "--batch", [1, 8], "requests at once")
    group.add_argument("--input-len", default="128", metavar="N|N:N", help="tokens of a prompt (default: 128)")
    group.add_argument("--output-len", default="64", metavar="N|N:N", help="tokens to generate (default: 64)")
    group.add_argument(
        "--num-requests", type=positive, metavar="N", help="requests of a round (default: as many as run at once)"
    )
    group.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0 is greedy (default: 0)")
