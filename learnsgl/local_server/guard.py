"""The server's own process, when a notebook starts it: it serves until its standard input ends.

`LocalServer` runs `python -m learnsgl.local_server.guard serve ...` and holds the other end of that pipe. However a
notebook's kernel ends, also by `kill -9`, the pipe closes, and so no server is left behind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from learnsgl.cli import make_parser
from learnsgl.errors import LearnsglError
from learnsgl.options import config_from_args
from learnsgl.server.launch import ServerInfo, launch_server


def main(words: list[str]) -> int:
    """Serve, and tell on standard output when it is ready.

    Args:
        words: a command line without the program's name: `serve`, then options.

    Returns:
        The exit code that `learnsgl serve` would give.
    """
    sys.argv = ["learnsgl", *words]  # the recording's manifest is to name a command that a reader can type
    threading.Thread(target=_end_with_standard_input, name="guard", daemon=True).start()
    try:
        launch_server(config_from_args(make_parser().parse_args(words)), on_ready=_tell)
    except LearnsglError as error:
        print(f"learnsgl: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _tell(info: ServerInfo) -> None:
    """One line of JSON for `LocalServer`."""
    folder = None if info.trace_folder is None else str(info.trace_folder)
    print(json.dumps({"line": str(info), "url": info.url, "model": info.model, "trace_folder": folder}), flush=True)


def _end_with_standard_input() -> None:
    os.read(0, 1)  # returns when the other end is closed: nothing is ever written
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":  # the server's children import this module too, under another name
    sys.exit(main(sys.argv[1:]))
