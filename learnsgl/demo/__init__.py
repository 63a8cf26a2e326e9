"""`learnsgl demo`: one command that serves a real model, asks it questions, and shows what every process did.

`cli.py` calls `add_demo_command`. The demo starts the server as a user would, in another process, and afterwards only
reads its trace.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from learnsgl.errors import StartupError


def add_demo_command(subparsers: Any) -> None:
    """Add `demo`; it sets `run`, a function of the parsed arguments that returns an exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gave for the `learnsgl` command.
    """
    parser = subparsers.add_parser(
        "demo",
        help="serve a real model, ask it four questions at once, and show what every process did",
        description="Serve the built-in model, ask it four questions at once, and show what every process did: the "
        "requests' tokens and times read back from the trace, its verification, and a picture of it.",
        epilog="Exit codes: 0 everything held, 1 a point did not hold (it is named), else as the server's.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder for the recording, the server's log and the figures (default: demo)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    missing = [package for package in ("openai", "matplotlib") if importlib.util.find_spec(package) is None]
    if missing:
        raise StartupError(
            f"the demo needs {' and '.join(missing)}: pip install 'learnsgl[demo]', or in a checkout: make demo"
        )
    from learnsgl.demo.run import run_demo

    return run_demo(args.out)
