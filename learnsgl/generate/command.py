"""The options of `learnsgl generate`, and what its help says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from learnsgl.options import add_options

AREAS = ("engine", "scheduler", "trace")
"""Options of the server that an `LLM` takes, too."""

_EPILOG = """\
examples:
  learnsgl generate "The capital of France is"            one prompt; its text comes as it is generated
  learnsgl generate --chat "What is a KV cache?"          as a question to the model, by its chat template
  learnsgl generate --chat --temperature 0.7 --max-tokens 64 "A haiku about GPUs" "A haiku about RAM"
  learnsgl generate --file prompts.txt                    a prompt a line, answered in batches
  learnsgl generate --file in.jsonl --jsonl -o out.jsonl  a JSON object a line, in and out
  cat prompts.txt | learnsgl generate --jsonl | jq -r .text
  learnsgl generate --trace traces "Hi"; learnsgl trace info traces       a recording of how it was done

a line of JSON is an object with
  prompt (a text or a list of token ids), or messages ([{"role": "user", "content": "..."}]);
  and, as it likes, temperature, top_p, top_k, seed, max_tokens, stop, ignore_eos, and an id that its result carries:
  {"id": "q1", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}
What a line doesn't say, the command's options say. All lines are checked before the first is answered.

results come in the order of the prompts. Ctrl-C prints those that are finished.
exit codes: 0 all answered, 1 some could not be answered, 2 a wrong option or line, 3 could not start, 4 broke while it
ran, 130 after Ctrl-C.
"""


def add_generate_command(subparsers: Any) -> None:
    """Add `generate`; it sets `run`, a function of the parsed arguments that returns an exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gave for the `learnsgl` command.
    """
    parser = subparsers.add_parser(
        "generate",
        help="answer prompts from the command line, a file or a pipe",
        description="Answer prompts in this process, without a server: from arguments, a file, or standard input.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_prompt_options(parser)
    _add_sampling_options(parser)
    add_options(parser, areas=AREAS)
    parser.set_defaults(run=_run)


def _add_prompt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="prompts; quote each")
    group = parser.add_argument_group("prompts and results")
    group.add_argument("--file", "-f", metavar="FILE", help="read prompts from a file; - is standard input")
    group.add_argument(
        "--input", choices=("auto", "lines", "jsonl"), default="auto",
        help="what the file holds: a prompt a line, or a JSON object a line; auto takes JSON where the file's name "
        "ends in .jsonl or its first line begins with a brace (default: auto)",
    )  # fmt: skip
    group.add_argument(
        "--chat", action="store_true", help="put each prompt to the model as a user's message, by its chat template"
    )
    group.add_argument("--system", metavar="TEXT", help="with --chat: a system message ahead of each prompt")
    group.add_argument("--jsonl", action="store_true", help="results as JSON, an object a line")
    group.add_argument("--output", "-o", type=Path, metavar="FILE", help="write the results to this file")
    group.add_argument("--quiet", "-q", action="store_true", help="no progress bar")


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling", "How tokens are chosen. --seed, below, makes another draw.")
    group.add_argument(
        "--max-tokens", type=int, default=256, metavar="N", help="most tokens of an answer (default: 256)"
    )
    group.add_argument(
        "--temperature", type=float, default=0.0, metavar="X",
        help="0 always takes the likeliest token, so that the same command prints the same answer; higher is more "
        "varied (default: 0)",
    )  # fmt: skip
    group.add_argument("--top-p", type=float, default=1.0, metavar="X", help="keep the likeliest tokens up to this sum")
    group.add_argument("--top-k", type=int, metavar="N", help="keep the N likeliest tokens")
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end an answer before this text; repeatable"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after an end-of-sequence token")


def _run(args: argparse.Namespace) -> int:
    from learnsgl.generate.run import run_generate

    return run_generate(args)
