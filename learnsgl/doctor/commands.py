"""The command `learnsgl doctor`. `cli.py` adds it to its parser, before the other commands are even imported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from learnsgl.config import ServerConfig
from learnsgl.doctor.checks import CHECKS, PREFIX_CHECKS, Check, run_checks
from learnsgl.doctor.place import Place, Probe, bare_probe, prefix_place, python_of, this_place
from learnsgl.doctor.report import Finding, Status, as_json, as_lines, summary
from learnsgl.errors import OptionError

FAULT_EXIT = 1
_WIDEST = max(len(check.name) for check in CHECKS)
_EPILOG = (
    "checks:\n"
    + "\n".join(f"  {check.name:{_WIDEST}}  {check.about}" for check in CHECKS)
    + "\n\nExit codes: 1 at least one fault, else 0. docs/troubleshooting.md says more about each."
)


def add_doctor_command(subparsers: Any) -> None:
    """Add `doctor`; it sets `run`, a function of the parsed arguments that returns an exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gave for the `learnsgl` command.
    """
    parser = subparsers.add_parser(
        "doctor",
        help="find out what is wrong with this machine, and how to mend it",
        description="Check Python, its packages, the C++ library that it loads, torch and the GPU, the port, folders, "
        "memory and the model. Each line says ok, warning or fault, with the remedy and the command for it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="only these checks; by default all of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument(
        "--port", type=_port, default=ServerConfig().port, metavar="N", help="the HTTP port (default: %(default)s)"
    )
    parser.add_argument(
        "--prefix", type=Path, metavar="DIR",
        help=f"look at another environment's folder, as sys.prefix names it; only for: {', '.join(PREFIX_CHECKS)}",
    )  # fmt: skip
    parser.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """`learnsgl doctor [CHECK ...] [--json] [--port N] [--prefix DIR]`."""
    checks = choose_checks(args.checks, is_prefix=args.prefix is not None)
    findings: list[tuple[str, Finding]] = []
    with ExitStack() as cleanup:
        place = _make_place(args, checks, cleanup.callback)
        for name, finding in run_checks(checks, place):
            findings.append((name, finding))
            if not args.json:
                print(as_lines(name, finding), flush=True)
    found = [finding for _, finding in findings]
    print(as_json(findings) if args.json else summary(found))
    return FAULT_EXIT if any(finding.status is Status.FAULT for finding in found) else 0


def choose_checks(names: Sequence[str], *, is_prefix: bool) -> list[Check]:
    """The checks of these names, in the registry's order; all where none is named.

    Raises:
        OptionError: there is no such check, or it can't be made for another environment.
    """
    allowed = PREFIX_CHECKS if is_prefix else tuple(check.name for check in CHECKS)
    for name in names:
        if name not in allowed:
            kind = "with --prefix there are only" if is_prefix else "there are"
            raise OptionError(f"there is no check {name!r}; {kind}: {', '.join(allowed)}")
    return [check for check in CHECKS if check.name in (names or allowed)]


def _make_place(args: argparse.Namespace, checks: Sequence[Check], at_end: Callable[..., object]) -> Place:
    """What is looked at; the process that loads its packages runs from here on, and is ended `at_end`."""
    python = Path(sys.executable) if args.prefix is None else python_of(args.prefix)
    if python is None:
        return prefix_place(args.prefix, partial(bare_probe, args.prefix))
    if not any(check.asks_torch for check in checks):
        return this_place(dict, port=args.port)
    asks_torch = args.prefix is None and any(check.asks_torch and check.name != "libstdcxx" for check in checks)
    probe = Probe(python, torch=asks_torch)
    at_end(probe.close)
    return this_place(probe, port=args.port) if args.prefix is None else prefix_place(args.prefix, probe)


def _port(text: str) -> int:
    if not (text.isdigit() and int(text) <= 65535):
        raise OptionError(f"--port is {text!r}; it must be a whole number from 0 to 65535")
    return int(text)
