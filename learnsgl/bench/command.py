"""The options of `learnsgl bench`, and from a parsed command line to a benchmark's settings.

Nothing is measured here, and nothing that measures is imported before it is asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from learnsgl.bench.arguments import add_device, add_model, add_number, add_numbers
from learnsgl.bench.offline_options import PEERS, add_offline_options
from learnsgl.bench.online.options import add_online_options
from learnsgl.bench.steps_options import add_steps_options
from learnsgl.config import BUILT_IN_MODEL
from learnsgl.trace.commands import EXPORT_FORMATS

BENCHES = ("offline", "scheduler", "trace", "memory", "tracers", "replay")
GPU_BENCHES = ("kernels", "steps")
"""They are about a GPU, so `bench all` leaves them out, and the page has them in a section of its own."""
LOAD_BENCHES = ("online",)
"""They measure whatever server they are pointed at, so `bench all` and the page leave them out, too."""
KERNEL_SHAPES = ("qwen3-0.6b", "llama-3.1-8b")
TRACE_PARTS = ("events", "steps", "held", "model")
TRACERS = ("none", "learnsgl", "viztracer", "torch.profiler")

_EPILOG = """\
examples:
  learnsgl bench offline                          the engine beside transformers and llama.cpp
  learnsgl bench offline --batch 8 --input-len 64:256 --output-len 32 --quantization int8 --peers transformers
  learnsgl bench scheduler                        a scheduler's step, by batch and by size of the radix tree
  learnsgl bench trace                            what recording costs
  learnsgl bench memory                           the memory of each process, and where the start-up's time goes
  learnsgl bench tracers                          recording beside VizTracer and the PyTorch profiler
  learnsgl bench replay                           opening, seeking, folding and exporting recordings, by their length
  learnsgl bench kernels                          the GPU's kernels beside their floors and torch's own (needs a GPU)
  learnsgl bench steps                            decode and prefill steps beside what the GPU could do
  learnsgl bench online --url URL --rate 1 2 4    any OpenAI-compatible server under load, as its clients see it
  learnsgl bench grammar                          what constrained answers cost the scheduler
  learnsgl bench all                              all of these with their defaults, then the tables of the page
  learnsgl bench docs                             only the tables of docs/benchmarks.md, from docs/benchmarks/*.json

Close what else runs: the load of the machine is written down with the figures. --out DIR keeps them as JSON.
"""
_SINGLE = {
    "offline": "the engine beside transformers' generate and llama.cpp, on the same prompts",
    "scheduler": "a scheduler's step, by running requests and by nodes of the radix tree",
    "trace": "what recording costs: an event, a step, a run on a held device, a run of the model",
    "memory": "the memory of every process of an idle server, and its start-up by part",
    "tracers": "our recording beside VizTracer and the PyTorch profiler: speed, size, time to read it back",
    "replay": "opening a recording, getting anywhere in it, folding and exporting it, by its length",
    "steps": "the engine's steps: decode beside its floor, what the device waits in between, and a long prefill",
    "kernels": "each kernel of the GPU engine beside its floor and beside torch's own operators",
    "online": "a server under load: time to first token, time per token, throughput, goodput",
}
_GRAMMAR = "what compiling a schema and its masks cost, beside xgrammar where that is installed"


def add_bench_command(subparsers: Any) -> None:
    """Add `bench` and its commands; each sets `run`, a function of the parsed arguments that returns an exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gave for the `learnsgl` command.
    """
    parser = subparsers.add_parser(
        "bench", help="measure speed, memory, and what recording costs",
        description="Measure, with warm-up and repeats; figures that are compared are measured in turns.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")
    adders = {
        "offline": add_offline_options, "scheduler": _add_scheduler, "trace": _add_trace, "memory": _add_memory,
        "tracers": _add_tracers, "replay": _add_replay, "kernels": _add_kernels,
        "steps": add_steps_options, "online": add_online_options,
    }  # fmt: skip
    for name in (*BENCHES, *GPU_BENCHES, *LOAD_BENCHES):
        single = commands.add_parser(name, help=_SINGLE[name], description=f"Measure {_SINGLE[name]}.")
        adders[name](single)
        single.add_argument("--out", type=Path, metavar="DIR", help=f"write DIR/{name}.json")
        single.set_defaults(run=_run_online if name in LOAD_BENCHES else _run_one, bench=name)
    grammar = commands.add_parser("grammar", help=_GRAMMAR, description=f"Measure {_GRAMMAR}.")
    grammar.add_argument("--model", default=BUILT_IN_MODEL, help=f"whose tokenizer (default: {BUILT_IN_MODEL})")
    add_number(grammar, "--repeats", 5, "how often each schema is compiled, and its answer followed")
    grammar.set_defaults(run=_run_grammar)
    every = commands.add_parser("all", help="all of these with their defaults, and the tables of docs/benchmarks.md")
    _add_page(every)
    every.set_defaults(run=_run_all, parsers={name: commands.choices[name] for name in BENCHES})
    docs = commands.add_parser("docs", help="write the tables of docs/benchmarks.md from the results")
    _add_page(docs)
    docs.set_defaults(run=_run_docs)


def _add_page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks"), metavar="DIR",
        help="folder of the results (default: docs/benchmarks)",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, default=Path("docs/benchmarks.md"), metavar="FILE",
        help="page whose tables are written (default: docs/benchmarks.md)",
    )  # fmt: skip


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    add_numbers(parser, "--running", [1, 16, 64, 256], "running requests")
    add_numbers(parser, "--nodes", [10, 1000, 100_000], "nodes of the radix tree")
    add_numbers(parser, "--page-size", [1, 16], "tokens a page")
    add_number(parser, "--steps", 400, "steps of each repeat")
    add_number(parser, "--repeats", 7, "repeats; the cases take turns")


def _add_trace(parser: argparse.ArgumentParser) -> None:
    add_model(parser, none="; none leaves it out")
    add_device(parser)
    parser.add_argument(
        "--parts", nargs="+", choices=TRACE_PARTS, default=list(TRACE_PARTS),
        help=f"what is measured (default: {' '.join(TRACE_PARTS)})",
    )  # fmt: skip
    add_number(parser, "--running", 256, "running requests without a model")
    parser.add_argument(
        "--step-ms", type=float, default=10.0, metavar="X", help="milliseconds of a held step (default: 10)"
    )
    add_number(parser, "--steps", 200, "steps of a run on the held device")
    add_number(parser, "--pairs", 16, "pairs of runs, off and full")
    add_number(parser, "--blocks", 40, "pairs of blocks of 50 steps that aren't held")
    add_number(parser, "--events", 20_480, "events of each kind")
    add_number(parser, "--batch", 8, "requests at once to the model")
    add_number(parser, "--input-len", 32, "tokens of a prompt to the model")
    add_number(parser, "--output-len", 48, "tokens that the model generates for each")


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=BUILT_IN_MODEL, help=f"as for learnsgl serve (default: {BUILT_IN_MODEL})")
    add_number(parser, "--repeats", 3, "how often the server is started")
    parser.add_argument(
        "--serve-options", default="", metavar="TEXT", help="more options of learnsgl serve, in one argument"
    )


def _add_tracers(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--tracers", nargs="+", choices=TRACERS,
        help="none is always among them (default: all that are installed; VizTracer is by pip install viztracer)",
    )  # fmt: skip
    add_number(parser, "--batch", 8, "requests at once")
    add_number(parser, "--input-len", 32, "tokens of a prompt")
    add_number(parser, "--output-len", 64, "tokens to generate")
    add_number(parser, "--repeats", 6, "rounds; a process each, with a warm-up of its own")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    add_numbers(parser, "--events", [10_000, 100_000, 1_000_000], "lengths of the recordings")
    add_number(parser, "--seeks", 20, "moments that are visited")
    add_number(parser, "--running", 256, "running requests")
    add_number(parser, "--nodes", 1000, "nodes of the radix tree, roughly")
    add_number(parser, "--input-len", 64, "tokens of a prompt, at least 33")
    add_number(parser, "--output-len", 256, "tokens that each request generates")
    add_number(parser, "--page-size", 1, "tokens a page")
    parser.add_argument(
        "--formats", nargs="*", choices=EXPORT_FORMATS, default=list(EXPORT_FORMATS),
        help="exports that are measured (default: all)",
    )  # fmt: skip


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes", nargs="+", choices=KERNEL_SHAPES, default=list(KERNEL_SHAPES),
        help=f"whose sizes (default: {' '.join(KERNEL_SHAPES)})",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", choices=("all", "few"), default="all", help="few takes seconds, for a first look (default: all)"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16"), default="bfloat16", help="of everything (default: bfloat16)"
    )
    add_number(parser, "--page-size", 1, "tokens a page")
    add_number(parser, "--repeats", 30, "timings of each")


def _run_one(args: argparse.Namespace) -> int:
    from learnsgl.bench.run import run_bench

    report = run_bench(args)
    failed = report.results.get("failed", {}) if isinstance(report.results, dict) else {}
    return 1 if any(name not in PEERS for name in failed) else 0  # a peer that fails is told of, and is no failure


def _run_online(args: argparse.Namespace) -> int:
    from learnsgl.bench.online.command import run_online

    return run_online(args)


def _run_grammar(args: argparse.Namespace) -> int:
    from learnsgl.bench.grammar import run_command

    return run_command(args)


def _run_all(args: argparse.Namespace) -> int:
    from learnsgl.bench.docs import write_page
    from learnsgl.bench.run import run_bench

    for name in BENCHES:
        run_bench(args.parsers[name].parse_args(["--out", str(args.out)]), command=f"learnsgl bench {name}")
    print(write_page(args.page, args.out))
    return 0


def _run_docs(args: argparse.Namespace) -> int:
    from learnsgl.bench.docs import write_page

    print(write_page(args.page, args.out))
    return 0
