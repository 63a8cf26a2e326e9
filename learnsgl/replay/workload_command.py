"""`learnsgl trace workload PATH [--out FILE]`: the requests of a recording as JSON lines, for a load generator.

`trace/commands.py` opens the trace and calls `print_workload`.
"""

from __future__ import annotations

from pathlib import Path

from learnsgl.errors import FolderError
from learnsgl.replay.workload import write_workload
from learnsgl.terminal import utf8_output
from learnsgl.trace.reader import Trace


def print_workload(trace: Trace, out: Path | None) -> int:
    """Write the workload of a recording.

    Args:
        trace: the recording.
        out: file to write; `None` prints it.

    Returns:
        The exit code.

    Raises:
        FolderError: the file can't be written.
    """
    if out is None:
        write_workload(trace, utf8_output())
        return 0
    try:
        with out.open("w", encoding="utf-8", newline="\n") as file:
            count = write_workload(trace, file)
    except OSError as error:
        raise FolderError(
            f"--out {out}: can't be written ({error.strerror or error}); give a file in a folder of yours"
        ) from error
    print(f"{out}: {count:,} requests")
    return 0
