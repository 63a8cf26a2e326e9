"""Makes the recordings in this folder: `python traces/record.py first_request`, or all of them without a name.

Each one starts the real server, sends it real requests, stops it, proves the recording, packs it into one file and
checks that it shows what its row in README.md says. The rows are written from the recordings themselves.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import openai
from recordings.catalogue import RECORDINGS as CPU_RECORDINGS
from recordings.facts import Facts, read_facts
from recordings.gpu import GPU_RECORDINGS
from recordings.workloads import TIMEOUT_S, send

from learnsgl.local_server import LocalServer
from learnsgl.trace.manifest import update_manifest
from learnsgl.trace.pack import pack
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
SUFFIX = ".trace.zip"
TABLE_BEGIN = "<!-- written by record.py -->"
TABLE_END = "<!-- end -->"
MAX_BYTES = 300_000
CHUNKS_BEFORE_KILL = 120


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """Where a recording is kept."""
    return folder / f"{name}{SUFFIX}"


KNOWN = {**CPU_RECORDINGS, **GPU_RECORDINGS}
"""All that can be made, those of a GPU only where there is one."""

RECORDINGS = {**CPU_RECORDINGS, **{name: one for name, one in GPU_RECORDINGS.items() if path_of(name).is_file()}}
"""All that are kept in this folder."""


def command_of(name: str) -> str:
    """The command that makes a recording, from the repository's root."""
    return f"python traces/record.py {name}"


def record(name: str, folder: Path = FOLDER) -> Path:
    """Make a recording anew.

    Args:
        name: one of `KNOWN`.
        folder: where the packed file goes.

    Returns:
        The packed file.

    Raises:
        StartupError: the server didn't start.
        TraceError: the recording contradicts itself.
    """
    recording = KNOWN[name]
    with tempfile.TemporaryDirectory(prefix="record-") as scratch:
        # The server runs in the temporary folder, so that the manifest holds the relative path alone.
        with LocalServer(*recording.options, trace="runs", cwd=Path(scratch)) as server:
            assert server.trace_folder is not None, "it was told to record"
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S)
            on_chunk = _killer(server.trace_folder, recording.kills) if recording.kills else None
            send(client, server.model, recording.rounds, on_chunk)
        update_manifest(server.trace_folder, made_by=command_of(name))
        verify(Trace.open(server.trace_folder))
        return pack(server.trace_folder, path_of(name, folder), with_text=recording.with_text)


def _killer(folder: Path, process: str) -> Callable[[], None]:
    """A function to call at each chunk of an answer; one of its calls kills a process of the run in `folder`."""
    calls = itertools.count(1)

    def on_chunk() -> None:
        if next(calls) == CHUNKS_BEFORE_KILL:
            os.kill(Trace.open(folder).process(process).fact("pid"), signal.SIGKILL)

    return on_chunk


def untrue(name: str, folder: Path = FOLDER) -> list[str]:
    """The sentences about a recording that it doesn't bear out, and what else is wrong with its file."""
    known = {**KNOWN, **RECORDINGS}[name]
    facts, others = facts_of(name, folder), facts_of(known.partner or name, folder)
    wrong = [claim.text for claim in known.claims if not claim.holds(facts, others)]
    if (size := path_of(name, folder).stat().st_size) > MAX_BYTES:
        wrong.append(f"It takes {size:,} bytes; at most {MAX_BYTES:,} are allowed.")
    return wrong


@functools.cache
def facts_of(name: str, folder: Path = FOLDER) -> Facts:
    """The facts of a recording, read once."""
    return read_facts(path_of(name, folder))


def table() -> str:
    """The table of README.md: a row for each recording, from its manifest and its events."""
    rows = ["| file | made by | machine | date | what to notice |", "| --- | --- | --- | --- | --- |"]
    for name, recording in RECORDINGS.items():
        facts, others = facts_of(name), facts_of(recording.partner or name)
        manifest = facts.trace.manifest
        hardware = manifest["hardware"]
        cells = (
            f"[{path_of(name).name}]({path_of(name).name}), {path_of(name).stat().st_size / 1000:.0f} kB",
            f"`{manifest['made_by']}`, which runs `{' '.join(manifest['command'])}`",
            f"{hardware['cpu']}, {hardware['num_cores']} cores; {manifest['engine']['device']}",
            str(manifest["started"])[:10],
            recording.notice(facts, others),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def readme_with(new_table: str) -> str:
    """README.md with its table replaced."""
    before, _, rest = README.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    after = rest.partition(TABLE_END)[2]
    return f"{before}{TABLE_BEGIN}\n{new_table}\n{TABLE_END}{after}"


def main() -> int:
    """Make the recordings that the command line names, and bring the table up to date."""
    parser = argparse.ArgumentParser(description="Make the recordings in this folder.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {', '.join(CPU_RECORDINGS)}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="another folder than this one; its README.md stays")
    parser.add_argument("--table", action="store_true", help="make none; only write the table of README.md")
    args = parser.parse_args()
    if args.table:
        README.write_text(readme_with(table()), encoding="utf-8")
        return 0
    names, folder = args.names or list(CPU_RECORDINGS), args.out or FOLDER
    if unknown := [name for name in names if name not in KNOWN]:
        parser.error(f"no recording is called {unknown[0]!r}; there are: {', '.join(KNOWN)}")
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names, start=1):
        print(f"[{place}/{len(names)}] {name} ... ", end="", flush=True)
        file = record(name, folder)
        facts = facts_of(name, folder)
        print(
            f"{len(facts.lives)} requests, {facts.steps.num} steps in {facts.span_s:.1f} s, "
            f"{file.stat().st_size / 1000:.0f} kB"
        )
    if args.out is None:
        README.write_text(readme_with(table()), encoding="utf-8")
    # a partner may still have to be made, by another call
    whole = [name for name in names if path_of(KNOWN[name].partner or name, folder).is_file()]
    wrong = [f"{name}: {text}" for name in whole for text in untrue(name, folder)]
    if wrong:
        print("What README.md says and the recordings don't show:", *wrong, sep="\n  ", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
