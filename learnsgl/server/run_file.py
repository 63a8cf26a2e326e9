"""The run file of a server: who it is, and which process does what, for `learnsgl ps`.

`launch.py` writes it into the server's private socket folder, and holds a lock on that folder for as long as it
lives. The system lets go of the lock however the server ends, `kill -9` included, so nobody has to guess from process
ids whether a run file is stale; and the folder goes with the sockets, whoever removes them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

RUN_FILE = "server.json"
VERSION = 1
PARENT = "api"
"""Name and role of the process that starts the others."""

_log = logging.getLogger(__name__)


class ProcessFacts(msgspec.Struct, frozen=True):
    """One process of a server."""

    name: str
    role: str
    pid: int


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a run file says.

    Attributes:
        version: of this layout; a reader skips others.
        started_s: when the server was started, in seconds since 1970; for people, since that clock can jump.
        started_ns: the same on `time.monotonic_ns`, which all processes of a host share; `None` in older files.
        is_ready: whether requests can come; else it is starting.
        url: where it listens.
        model: name that clients use for the model.
        device: what the model runs on, in words; empty while the server starts.
        dtype: of weights and KV cache; empty while the server starts.
        trace_folder: where this run is recorded, if it is.
        processes: the parent first, then its children in the order of their start.
    """

    version: int = VERSION
    started_s: float
    is_ready: bool
    url: str
    model: str
    device: str = ""
    dtype: str = ""
    trace_folder: str | None = None
    processes: tuple[ProcessFacts, ...]
    started_ns: int | None = None


class NamedProcess(Protocol):
    """What is asked of a child process."""

    name: str
    role: str

    @property
    def pid(self) -> int:
        """The process's id."""
        ...


class RunFile:
    """The writing end.

    Args:
        folder: the server's socket folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RUN_FILE
        self._facts: RunFacts | None = None
        self._lock: int | None = None
        try:
            self._lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks: an unlocked run file would be taken for a stale one
            _log.warning("learnsgl ps won't see this server: %s can't be locked (%s)", folder, error.strerror)
            self.close()

    def starting(self, url: str, model: str, trace_folder: Path | None, children: Sequence[NamedProcess]) -> None:
        """Say who is who, as soon as the processes are there.

        Args:
            url: where it will listen.
            model: name that clients use for the model.
            trace_folder: folder of this run's recording, if there is one.
            children: the child processes; the parent is the process that calls this.
        """
        parent = ProcessFacts(PARENT, PARENT, os.getpid())
        self._write(
            RunFacts(
                started_s=time.time(), started_ns=time.monotonic_ns(), is_ready=False, url=url, model=model,
                trace_folder=None if trace_folder is None else str(trace_folder.resolve()),
                processes=(parent, *(ProcessFacts(child.name, child.role, child.pid) for child in children)),
            )
        )  # fmt: skip

    def ready(self, device: str, dtype: str) -> None:
        """Say that requests can come, and what the model runs on."""
        assert self._facts is not None, "`starting` comes first"
        self._write(msgspec.structs.replace(self._facts, is_ready=True, device=device, dtype=dtype))

    def _write(self, facts: RunFacts) -> None:
        """Put these facts in the place of those before them. A disk that takes no more is logged, and no harm."""
        self._facts = facts
        if self._lock is None:
            return
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(facts))
            new.replace(self._path)
        except OSError as error:
            _log.warning("learnsgl ps won't see this server: %s can't be written (%s)", self._path, error.strerror)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None


def is_alive(folder: Path) -> bool:
    """Whether the server of this socket folder lives: whether its lock is held."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look at once don't mislead each other
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_run_file(folder: Path) -> RunFacts | None:
    """What the run file in a socket folder says; `None` where there is none, or one of another version."""
    try:
        facts = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=RunFacts)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return facts if facts.version == VERSION else None
