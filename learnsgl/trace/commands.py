"""`learnsgl trace ls | info | cat | verify | pack | unpack | export`: recordings on the command line.

`cli.py` calls `add_trace_command`; each command prints to the standard output and returns its exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from learnsgl.config import TraceLevel, wants_no_color
from learnsgl.errors import FolderError, OptionError
from learnsgl.terminal import utf8_output
from learnsgl.trace.events import KINDS
from learnsgl.trace.lives import requests
from learnsgl.trace.pack import pack, unpack
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import describe, follow, process_rows, request_rows, run_rows, table, to_json
from learnsgl.trace.source import find_runs, is_run
from learnsgl.trace.text import is_text_removed
from learnsgl.trace.verify import verify

MAX_SHOWN = 50
"""Requests that `info` lists."""
EXPORT_FORMATS = ("perfetto", "chrome", "otlp", "parquet", "jsonl")
_PATH_HELP = "a run's folder, a packed file, or a folder of runs, of which the newest is taken"


def add_trace_command(subparsers: Any) -> None:
    """Add `trace` and its commands; each sets `run`, a function of the parsed arguments that returns an exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gave for the `learnsgl` command.
    """
    about = "Look at recordings of the server: what each process did, event by event."
    parser = subparsers.add_parser(
        "trace", help="list, read, check and pack recordings", description=about,
        epilog="Record with: learnsgl serve --trace DIR. Then: learnsgl trace info DIR, and learnsgl trace verify DIR. "
        "docs/trace-events.md explains every kind of event.",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "ls", run_ls, "list the runs in a folder, oldest first").add_argument(
        "dir", nargs="?", type=Path, default=Path(), metavar="DIR", help="folder of runs (default: the current one)"
    )
    _add_path(_add(commands, "info", run_info, "what ran, what was recorded, and the life of each request"))
    cat = _add(commands, "cat", run_cat, "print the events as JSON lines, merged by time")
    _add_path(cat)
    cat.add_argument("--process", metavar="NAME", help="only events of this process, such as scheduler-0")
    cat.add_argument(
        "--kind",
        action="append",
        metavar="KIND",
        help="only events of this kind or family: sched.step, or msg; repeatable",
    )
    cat.add_argument("--uid", type=int, metavar="N", help="only events that name this request")
    cat.add_argument("--follow", action="store_true", help="go on with what the server records until it has ended")
    _add_path(_add(commands, "verify", run_verify, "prove that nothing is missing, or name the first event at fault"))
    _add_stories(commands)
    packing = _add(commands, "pack", run_pack, "write a run into one small file, without prompts and answers")
    _add_path(packing)
    packing.add_argument("file", type=Path, metavar="FILE", help="file to write, by custom NAME.trace.zip")
    packing.add_argument(
        "--with-text", action="store_true",
        help="keep prompts, answers and token ids, which a recording of level tokens holds; else they are removed",
    )  # fmt: skip
    unpacking = _add(commands, "unpack", run_unpack, "write a packed file's contents into a new folder")
    unpacking.add_argument("file", type=Path, metavar="FILE", help="a packed file")
    unpacking.add_argument("dir", type=Path, metavar="DIR", help="folder to make")
    _add_export(commands)


def _add_stories(commands: Any) -> None:
    """Add what tells of requests and of whole runs; the rooms that do it are loaded when they are asked for."""
    showing = _add(commands, "show", run_show, "the server at a moment: processes, requests, pages, tree, messages")
    _add_path(showing)
    showing.add_argument(
        "--at",
        metavar="WHEN",
        help="12.5s since the first event, step:40, scheduler-0:1234, start or end (default: the end of a recording "
        "that goes on or was cut off; otherwise the middle one of its steps)",
    )
    showing.add_argument("--json", action="store_true", help="print all that is known as JSON")
    showing.add_argument(
        "--follow", action="store_true", help="print the end again and again until the server has ended"
    )
    ledger = _add(commands, "ledger", run_ledger, "where the time went: to the first token, and from token to token")
    _add_path(ledger)
    ledger.add_argument("uid", type=int, nargs="?", metavar="UID", help="request (default: medians over all)")
    ledger.add_argument("--json", action="store_true", help="print every part as JSON")
    why = _add(commands, "why", run_why, "what a request waited for, and which events say so")
    _add_path(why)
    why.add_argument("uid", type=int, metavar="UID", help="request")
    why.add_argument("--choice", type=int, default=0, metavar="N", help="which of its choices (default: %(default)s)")
    why.add_argument(
        "--at",
        metavar="TIME",
        help="only at this moment: 12.5s since the first event, step:40, scheduler-0:1234, start or end",
    )
    comparing = _add(commands, "diff", run_diff, "where two recordings of one workload part, why, and their totals")
    comparing.add_argument("a", type=Path, metavar="A", help=_PATH_HELP)
    comparing.add_argument("b", type=Path, metavar="B", help="likewise")
    comparing.add_argument("--json", action="store_true", help="print JSON")
    workload = _add(commands, "workload", run_workload, "arrivals, lengths and shared prefixes as JSON lines")
    _add_path(workload)
    workload.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: print)")


def _add_export(commands: Any) -> None:
    parser = _add(commands, "export", run_export, "write a run in a format of other tools: docs/exports.md")
    _add_path(parser)
    parser.add_argument(
        "--format", required=True, choices=EXPORT_FORMATS,
        help="perfetto and chrome: timelines; otlp: spans; parquet: a folder of tables; jsonl: events, as cat prints",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE", help="file (or folder) to make, or - for the standard output; by default beside PATH"
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="otlp as JSON rather than protobuf")
    parser.add_argument("--with-text", action="store_true", help="prompts and answers too (level tokens only)")
    parser.add_argument("--force", action="store_true", help="replace what is there")


def run_ls(args: argparse.Namespace) -> int:
    """List runs: date, model, level, duration, processes, events, bytes, state."""
    if not args.dir.is_dir():
        raise FolderError(f"{args.dir}: no such folder; give the folder that --trace named")
    runs = [args.dir] if is_run(args.dir) else find_runs(args.dir)
    if not runs:
        print(f"no runs in {args.dir}; record one with: learnsgl serve --trace {args.dir}")
        return 0
    print(table(run_rows(runs)))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """The manifest, the processes, the events by kind, and the requests."""
    trace = _open(args.path)
    print(describe(trace))
    print()
    print(table(process_rows(trace)))
    kinds = Counter(entry.kind for entry in trace.events()) + trace.unknown
    print("\n" + "\n".join(f"{count:9,}  {kind}" for kind, count in sorted(kinds.items())))
    print()
    lives = requests(trace)
    print(table(request_rows(lives[:MAX_SHOWN])))
    if len(lives) > MAX_SHOWN:
        print(
            f"and {len(lives) - MAX_SHOWN:,} more; all their endings: learnsgl trace cat {args.path} --kind req.ended"
        )
    return 0


def run_cat(args: argparse.Namespace) -> int:
    """Print events as JSON lines."""
    kinds = _chosen_kinds(args.kind)
    trace = _open(args.path)
    if args.process is not None and args.process not in trace.processes:
        raise OptionError(f"--process is {args.process!r}; the trace has: {', '.join(trace.processes)}")
    encoder = msgspec.json.Encoder()
    try:
        for entry in follow(trace, args.process) if args.follow else trace.events(args.process):
            if kinds is not None and entry.kind not in kinds:
                continue
            line = to_json(entry)
            if args.uid is None or args.uid == line.get("uid") or args.uid in line.get("uids", ()):
                print(encoder.encode(line).decode(), flush=args.follow)
    except KeyboardInterrupt:
        if not args.follow:
            raise
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Prove the trace complete."""
    print(verify(_open(args.path)))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print the server at a moment."""
    from learnsgl.replay.commands import show_command
    from learnsgl.replay.replay import Replay

    out = utf8_output()
    replay = Replay(_open(args.path))
    color = out.isatty() and not wants_no_color()
    try:
        return show_command(replay, out, at=args.at, follow=args.follow, as_json=args.json, color=color)
    except KeyboardInterrupt:
        if not args.follow:
            raise
        return 0


def run_ledger(args: argparse.Namespace) -> int:
    """Print where the time of one request, or of all, went."""
    from learnsgl.replay.ledger_command import print_ledger

    return print_ledger(_open(args.path), args.uid, as_json=args.json)


def run_why(args: argparse.Namespace) -> int:
    """Print what a request waited for."""
    from learnsgl.replay.why_command import print_why

    return print_why(_open(args.path), args.uid, args.at, args.choice)


def run_diff(args: argparse.Namespace) -> int:
    """Compare two recordings."""
    from learnsgl.replay.diff_command import print_diff

    return print_diff(_open(args.a), _open(args.b), as_json=args.json)


def run_workload(args: argparse.Namespace) -> int:
    """Write what a load generator needs to send the same requests."""
    from learnsgl.replay.workload_command import print_workload

    return print_workload(_open(args.path), args.out)


def run_pack(args: argparse.Namespace) -> int:
    """Pack a run."""
    trace = _open(args.path)
    file = pack(trace.path, args.file, with_text=args.with_text)
    words = ""
    if trace.level == TraceLevel.TOKENS:
        is_kept = args.with_text and not is_text_removed(trace)
        words = "; it holds prompts and answers" if is_kept else "; without the text of prompts and answers"
    print(f"{file}: {trace.num_events:,} events in {file.stat().st_size:,} bytes{words}")
    return 0


def run_unpack(args: argparse.Namespace) -> int:
    """Unpack a packed run."""
    print(unpack(args.file, args.dir))
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write a run in a format of other tools."""
    from learnsgl.export.command import run_export as export

    return export(_open(args.path), args)


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}."
    )
    parser.set_defaults(run=run)
    return parser


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help=_PATH_HELP)


def _open(path: Path) -> Trace:
    trace = Trace.open(path)
    if trace.path != path:
        print(f"the newest run in {path}: {trace.path.name}", file=sys.stderr)
    return trace


def _chosen_kinds(names: list[str] | None) -> set[str] | None:
    if not names:
        return None
    chosen: set[str] = set()
    for name in names:
        matching = {kind for kind in KINDS if kind == name or kind.startswith(name.removesuffix(".") + ".")}
        if not matching:
            families = sorted({kind.partition(".")[0] for kind in KINDS})
            raise OptionError(f"--kind is {name!r}; give a kind such as sched.step, or a family: {', '.join(families)}")
        chosen |= matching
    return chosen
