"""Commands of a terminal, run in a notebook: each is shown as it would be typed, with its output below it.

The lessons call `shell`. Unlike IPython's `!`, it finds this environment's `learnsgl` whatever the PATH is, and it
tells a command's exit code.
"""

from __future__ import annotations

import shlex
import subprocess
import sys

PROGRAM = "learnsgl"


def shell(command: str, *, max_lines: int | None = None) -> int:
    """Run a command and print its output as it comes.

    Args:
        command: one command with its arguments, quoted as in a POSIX shell; no pipes or redirections.
        max_lines: print only so many lines, and how many follow.

    Returns:
        The exit code; it is printed too where it isn't 0.

    Raises:
        FileNotFoundError: there is no such program.
    """
    words = shlex.split(command)
    if words[0] == PROGRAM:
        words[:1] = [sys.executable, "-m", PROGRAM]
    print(f"$ {command}")
    num_lines = 0
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            num_lines += 1
            if max_lines is None or num_lines <= max_lines:
                print(line, end="", flush=True)
    if max_lines is not None and num_lines > max_lines:
        print(f"... and {num_lines - max_lines} more lines")
    if process.returncode:
        print(f"[exit code {process.returncode}]")
    return process.returncode
