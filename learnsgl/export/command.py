"""`learnsgl trace export`: a recording in a format of other tools, on the command line.

`trace/commands.py` declares the command's options, and calls `run_export` when it is given.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from learnsgl.errors import OptionError
from learnsgl.export.formats import ExportFormat, default_path, export_trace, is_text, notes_of
from learnsgl.export.recording import Progress
from learnsgl.trace.reader import Trace

STDOUT = "-"
BAR_DELAY_S = 2.0


def run_export(trace: Trace, args: argparse.Namespace) -> int:
    """Export a trace as the command line says.

    Args:
        trace: the recording.
        args: format, out, as_json, with_text and force.

    Returns:
        The exit code.
    """
    chosen = ExportFormat(args.format)
    options = {"as_json": args.as_json, "with_text": args.with_text, "force": args.force}
    for note in notes_of(trace):
        print(f"note: {note}", file=sys.stderr)
    if args.out == STDOUT:
        if not is_text(chosen, as_json=args.as_json):
            texts = "chrome, jsonl, or otlp with --json"
            raise OptionError(f"--out is -, and {chosen} isn't text; name a file, or choose {texts}")
        with _bar(trace, is_shown=not sys.stdout.isatty()) as progress:
            export_trace(trace, chosen, sys.stdout.buffer, progress=progress, **options)
        _tell_unknown(trace)
        return 0
    path = default_path(trace, chosen, as_json=args.as_json) if args.out is None else Path(args.out)
    with _bar(trace) as progress:
        num_bytes = export_trace(trace, chosen, path, progress=progress, **options)
    print(f"{path}: {trace.num_events:,} events as {chosen}, {num_bytes:,} bytes")
    _tell_unknown(trace)
    return 0


def _tell_unknown(trace: Trace) -> None:
    if trace.unknown:
        kinds = ", ".join(sorted(trace.unknown))
        count = trace.unknown.total()
        print(f"note: {count:,} events are of kinds that this version doesn't know: {kinds}", file=sys.stderr)


@contextlib.contextmanager
def _bar(trace: Trace, *, is_shown: bool = True) -> Iterator[Progress]:
    """A bar on stderr, if it takes longer than a moment."""
    with tqdm(
        total=trace.num_events, unit=" events", unit_scale=True, delay=BAR_DELAY_S, leave=False, disable=not is_shown
    ) as bar:  # fmt: skip
        yield lambda num_done, num_events: bar.update(num_done - bar.n)
