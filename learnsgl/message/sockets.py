"""The private folder that holds the ZMQ sockets of one server, and the addresses in it.

`launch.py` makes and removes the folder; each process finds the channels by their names.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from learnsgl.errors import FolderError

MAX_SOCKET_PATH_BYTES = 103
"""What every system takes: a Unix socket's path may have 107 bytes on Linux, 103 on macOS."""

_LONGEST_NAME = "tokenizer-63.ipc"


def make_socket_folder() -> Path:
    """A new folder in the system's temporary folder that only this user can enter (mode 0700).

    Raises:
        FolderError: it can't be made, or its path is too long for a Unix socket.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="learnsgl-"))  # mkdtemp makes it with mode 0700
    except OSError as error:
        raise FolderError(
            f"no folder for the sockets can be made in {tempfile.gettempdir()}: {error.strerror}; make that folder "
            f"writable, or set TMPDIR to one that is"
        ) from None
    length = len(bytes(folder / _LONGEST_NAME))
    if length > MAX_SOCKET_PATH_BYTES:
        remove_socket_folder(folder)
        raise FolderError(
            f"the temporary folder {tempfile.gettempdir()} has too long a path: a socket in it would take {length} "
            f"bytes, and at most {MAX_SOCKET_PATH_BYTES} are allowed; set TMPDIR to a shorter one"
        )
    return folder


def remove_socket_folder(folder: Path) -> None:
    """Remove the folder and the sockets in it; one that is gone already is fine, since any process may be last."""
    shutil.rmtree(folder, ignore_errors=True)


def channel_address(folder: Path, channel: str) -> str:
    """The ZMQ address of a channel."""
    return f"ipc://{folder / channel}.ipc"
