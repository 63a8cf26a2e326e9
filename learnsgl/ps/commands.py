"""The command `learnsgl ps`. `cli.py` adds it to its parser."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any


def add_ps_command(subparsers: Any) -> None:
    """Add `ps`; it sets `run`, a function of the parsed arguments that returns an exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gave for the `learnsgl` command.
    """
    parser = subparsers.add_parser(
        "ps",
        help="the running servers and their processes",
        description="Show the running servers of this user: URL, model, health, the recording that is written, and "
        "each process with its role, memory, CPU, threads and sockets.",
        epilog="memory is what a process has in use, with what it shares; unique is what would come back if it ended.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a tree")
    parser.set_defaults(run=run_ps)


def run_ps(args: argparse.Namespace) -> int:
    """`learnsgl ps [--json]`."""
    from learnsgl.ps.find import find_servers
    from learnsgl.ps.look import look_at
    from learnsgl.ps.show import show_server

    servers = [look_at(found) for found in find_servers()]
    if args.json:
        print(json.dumps([dataclasses.asdict(server) for server in servers], indent=2, ensure_ascii=False))
    elif not servers:
        print("no server is running; start one with: learnsgl serve")
    else:
        print("\n\n".join(show_server(server) for server in servers))
    return 0
