"""Find the running servers of this user by the run files in their socket folders, and clear away dead ones.

Source of the idea: a run file under a lock that the system releases, as daemons' pid files have it; see
`server/run_file.py`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from learnsgl.message.sockets import remove_socket_folder
from learnsgl.server.run_file import RUN_FILE, RunFacts, is_alive, read_run_file

_FOLDERS = "learnsgl-*"
_BOUND_SOCKETS = Path("/proc/net/unix")
"""Linux lists the path of every bound Unix socket here, wherever it lies."""


@dataclass(frozen=True)
class Found:
    """A running server: its socket folder and its run file."""

    folder: Path
    facts: RunFacts


def find_servers(temp: Path | None = None) -> list[Found]:
    """The running servers of this user, the oldest first. What a killed server has left is removed.

    Args:
        temp: the folder in which socket folders lie; by default the system's temporary folder and, on Linux, all
            others in which a server has sockets (it may have been started with another TMPDIR).
    """
    folders = sorted(Path(tempfile.gettempdir() if temp is None else temp).glob(_FOLDERS))
    if temp is None:
        folders += sorted(set(_folders_of_sockets()) - set(folders))
    found = []
    for folder in folders:
        facts = _look(folder)
        if facts is not None:
            found.append(Found(folder, facts))
    return sorted(found, key=lambda server: server.facts.started_s)


def _folders_of_sockets() -> Iterator[Path]:
    if not _BOUND_SOCKETS.is_file():
        return
    for line in _BOUND_SOCKETS.read_text(errors="replace").splitlines():
        path = Path(line.split(maxsplit=7)[-1])
        if path.suffix == ".ipc" and path.parent.match(_FOLDERS):
            yield path.parent


def _look(folder: Path) -> RunFacts | None:
    """The run file in a folder, if the server lives."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return None
        facts = read_run_file(folder)  # before the lock: a server takes that first
        if facts is None:
            return None
        if is_alive(folder):
            return facts
        if all(path.suffix == ".ipc" or path.stem == Path(RUN_FILE).stem for path in folder.iterdir()):
            remove_socket_folder(folder)
    except (FileNotFoundError, PermissionError):  # it ended while we looked, or it is another user's
        return None
    return None
