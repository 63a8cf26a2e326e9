"""Commands of a terminal, run in a notebook: each is shown as it would be typed, with its output below it.

The lessons call `shell`. Unlike IPython's `!`, it finds this environment's `learnsgl` whatever the PATH is, and it
tells a command's exit code.
"""

from __future__ import annotations

import shlex
import subprocess
import sys

PROGRAM = "learnsgl"


def shell(command: str, *, max_lines: int | None = None) -> None:
    """Run a command and print its output as it comes, and its exit code where that isn't 0.

    Args:
        command: one command with its arguments, quoted as in a POSIX shell; no pipes or redirections.
        max_lines: print only so many lines, and how many follow.
    """
    words = shlex.split(command)
    if words[0] == PROGRAM:
        words[:1] = [sys.executable, "-m", PROGRAM]
    print(f"$ {command}")
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        print(f"[{words[0]} isn't installed on this machine]")
        return
    with process:
        _print_lines(process, max_lines)
    if process.returncode:
        print(f"[exit code {process.returncode}]")


def _print_lines(process: subprocess.Popen[str], max_lines: int | None) -> None:
    assert process.stdout is not None
    num_lines = 0
    for line in process.stdout:
        num_lines += 1
        if max_lines is None or num_lines <= max_lines:
            print(line, end="", flush=True)
    if max_lines is not None and num_lines > max_lines:
        print(f"... and {num_lines - max_lines} more lines")
