"""Makes the recordings in this folder: `python traces/record.py first_request`, or all of them without a name.

Each one starts the real server, sends it real requests, stops it, proves the recording complete and packs it into one
file. The table in README.md is written from the recordings' own manifests.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import openai

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
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Recording:
    """One recording: what to start, what to ask it, and what its readers are to notice.

    Attributes:
        ask: sends the requests, given a client and the model's name; the server is stopped when it returns.
        notice: for the table, in a sentence or two.
        options: options of `learnsgl serve`, beside the port and the folder.
    """

    ask: Callable[[openai.OpenAI, str], None]
    notice: str
    options: tuple[str, ...] = ()


def ask_once(client: openai.OpenAI, model: str) -> None:
    """Stream one short greedy answer."""
    question = "What is the capital of France? Answer in one sentence."
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, stream=True
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


RECORDINGS = {
    "first_request": Recording(
        ask_once,
        "One request from end to end: start-up, prefill of the whole prompt in one step, one decode step for each "
        "further token, and the step that was submitted before the end of the answer was known.",
    ),
}


def path_of(name: str) -> Path:
    """Where a recording is kept."""
    return FOLDER / f"{name}{SUFFIX}"


def command_of(name: str) -> str:
    """The command that makes a recording, from the repository's root."""
    return f"python traces/record.py {name}"


def record(name: str) -> Path:
    """Make a recording anew.

    Args:
        name: one of `RECORDINGS`.

    Returns:
        The packed file.

    Raises:
        StartupError: the server didn't start.
        TraceError: the recording is not complete.
    """
    recording = RECORDINGS[name]
    with tempfile.TemporaryDirectory(prefix="record-") as folder:
        # The server runs in the temporary folder, so that the manifest holds the relative path alone.
        with LocalServer(*recording.options, trace="runs", cwd=Path(folder)) as server:
            print(server.ready_line)
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S)
            recording.ask(client, server.model)
        assert server.trace_folder is not None, "it was told to record"
        update_manifest(server.trace_folder, made_by=command_of(name))
        file = pack(server.trace_folder, path_of(name))
    print(verify(Trace.open(file)))
    return file


def table() -> str:
    """The table of README.md: a row for each recording, from its manifest."""
    rows = ["| file | made by | machine | date | what to notice |", "| --- | --- | --- | --- | --- |"]
    for name, recording in RECORDINGS.items():
        trace = Trace.open(path_of(name))
        hardware = trace.manifest["hardware"]
        cells = (
            f"[{path_of(name).name}]({path_of(name).name}), {path_of(name).stat().st_size / 1000:.0f} kB",
            f"`{trace.manifest['made_by']}`, which runs `{' '.join(trace.manifest['command'])}`",
            f"{hardware['cpu']}, {hardware['num_cores']} cores; {trace.manifest['engine']['device']}",
            str(trace.manifest["started"])[:10],
            recording.notice,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def readme_with(new_table: str) -> str:
    """README.md with its table replaced."""
    before, _, rest = README.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    after = rest.partition(TABLE_END)[2]
    return f"{before}{TABLE_BEGIN}\n{new_table}\n{TABLE_END}{after}"


def main() -> None:
    """Make the recordings that the command line names, and bring the table up to date."""
    parser = argparse.ArgumentParser(description="Make the recordings in this folder.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {', '.join(RECORDINGS)}")
    names = parser.parse_args().names or list(RECORDINGS)
    if unknown := [name for name in names if name not in RECORDINGS]:
        parser.error(f"no recording is called {unknown[0]!r}; there are: {', '.join(RECORDINGS)}")
    for name in names:
        file = record(name)
        print(f"{file.name}: {file.stat().st_size:,} bytes")
    README.write_text(readme_with(table()), encoding="utf-8")


if __name__ == "__main__":
    main()
