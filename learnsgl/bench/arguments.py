"""Options that several benchmarks share, and how their values are read.

`command.py`, `offline_options.py` and `steps_options.py` declare options with these.
"""

from __future__ import annotations

import argparse

from learnsgl.config import BUILT_IN_MODEL
from learnsgl.errors import OptionError

Options = argparse.ArgumentParser | argparse._ArgumentGroup
DEVICES = ("auto", "cpu", "cuda")


def add_model(parser: argparse.ArgumentParser, none: str = "") -> None:
    """`--model`, `--dtype`, `--threads` and `--seed`.

    Args:
        parser: what they are added to.
        none: what the model `none` means, where there is one.
    """
    parser.add_argument(
        "--model", default=BUILT_IN_MODEL, help=f"as for learnsgl serve{none} (default: {BUILT_IN_MODEL})"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="of weights and KV (default: float32)",
    )  # fmt: skip
    add_threads_and_seed(parser)


def add_threads_and_seed(parser: argparse.ArgumentParser) -> None:
    """`--threads` and `--seed`."""
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of each engine (default: the cores)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the prompts (default: 0)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto takes an NVIDIA GPU where there is one (default: auto)"
    )


def add_number(parser: Options, name: str, default: int, help_text: str) -> None:
    """A whole number of at least 1."""
    parser.add_argument(
        name, type=positive, default=default, metavar="N", help=f"{help_text} (default: {default})"
    )  # fmt: skip


def add_numbers(parser: Options, name: str, default: list[int], help_text: str) -> None:
    """Whole numbers of at least 1, one or more."""
    shown = " ".join(map(str, default))
    parser.add_argument(
        name, type=positive, nargs="+", default=default, metavar="N", help=f"{help_text} (default: {shown})"
    )


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        OptionError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"{text!r} was given where a whole number of at least 1 is expected; see --help")
    return int(text)
