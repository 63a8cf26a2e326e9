"""The files of one process: append-only, each with a header of its own, rotated by size and dropped by age.

`recorder.py` is the one caller. A frame goes to disk in a single `write`, so a killed process leaves whole frames and
at most one that ends early; it never leaves a frame that is wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from learnsgl.errors import TraceFormatError
from learnsgl.trace.clock import read_anchor
from learnsgl.trace.frames import FORMAT_VERSION, HEADER, FrameKind, encode_frame, parse_header
from learnsgl.trace.schema import registry

SEGMENT_NAME = re.compile(r"(?P<process>[A-Za-z0-9_-]+)\.(?P<index>[1-9][0-9]{0,8})\.trace")
MIN_SEGMENTS = 16
"""A limit on the recording's size is shared by at least so many files, so that dropping one drops little."""


def segment_name(process: str, index: int) -> str:
    """File name of a process's segment; the first has index 1."""
    return f"{process}.{index}.trace"


@dataclass(frozen=True)
class Identity:
    """Who writes: the parts of a file's header that stay the same for a process.

    Attributes:
        run_id: id of the run, as in its manifest.
        process: unique name in the run, such as `scheduler-0`.
        role: api, tokenizer, scheduler or detokenizer.
        pid: process id.
        level: trace level.
    """

    run_id: str
    process: str
    role: str
    pid: int
    level: str

    def header(self, segment: int, first: int) -> dict[str, Any]:
        """The header of a file whose first event has the number `first`."""
        return {
            "format": "learnsgl-trace", "version": FORMAT_VERSION, "run_id": self.run_id, "process": self.process,
            "role": self.role, "pid": self.pid, "level": self.level, "segment": segment, "first": first,
            "clock": read_anchor().to_json(), "kinds": registry(),
        }  # fmt: skip


@dataclass(frozen=True)
class _File:
    index: int
    num_bytes: int
    path: Path

    def first_ns(self) -> int:
        """When its first event was, on the one clock of the trace: the file system's can jump. A broken file is old."""
        try:
            with self.path.open("rb") as file:
                return parse_header(file.read(HEADER.size), self.path.name).first_ns
        except (OSError, struct.error, TraceFormatError):
            return 0


class SegmentWriter:
    """Appends frames to the current file of a process, and goes on in the next when it is full.

    Args:
        folder: the run's folder.
        identity: who writes.
        segment_bytes: size at which a file is full, its header apart; a single frame may exceed it.
        max_bytes: limit on all files of the run together, 0 for none. The oldest files go first, whichever process
            wrote them, so that what is left covers the same time in every process and messages keep both their ends.
            The newest file of each process always stays.
    """

    def __init__(self, folder: Path, identity: Identity, segment_bytes: int, max_bytes: int) -> None:
        self._folder = folder
        self._identity = identity
        self._segment_bytes = min(segment_bytes, max_bytes // MIN_SEGMENTS) if max_bytes else segment_bytes
        self._max_bytes = max_bytes
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._index = 0
        self._fd: int | None = None
        self._num_bytes = 0
        self._header_bytes = 0

    @property
    def run_id(self) -> str:
        """Id of the run that is recorded."""
        return self._identity.run_id

    @property
    def index(self) -> int:
        """Index of the file that is being written."""
        return self._index

    def write(self, payload: bytes, first: int, last: int, first_ns: int) -> None:
        """Append one frame of events.

        Raises:
            OSError: it isn't in the file; the file still ends with the frame before, and a later call tries anew.
        """
        frame = encode_frame(FrameKind.EVENTS, payload, first, last, first_ns, self._compressor)
        num_written = self._num_bytes - self._header_bytes
        if self._fd is None or (num_written and num_written + len(frame) > self._segment_bytes):
            self._open_next(first, first_ns)
        self._append(frame)

    def close(self) -> None:
        """Close the current file; safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open_next(self, first: int, first_ns: int) -> None:
        self._make_room()
        index = self._index + 1
        path = self._folder / segment_name(self._identity.process, index)
        header = json.dumps(self._identity.header(index, first), separators=(",", ":")).encode()
        frame = encode_frame(FrameKind.SEGMENT, header, first, first - 1, first_ns, self._compressor)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._index = index  # the name is taken from here on
        try:
            _write_whole(fd, frame)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):  # the error that matters is the one above
                path.unlink()
                self._index = index - 1
            raise
        self.close()
        self._fd = fd
        self._num_bytes = self._header_bytes = len(frame)

    def _append(self, frame: bytes) -> None:
        assert self._fd is not None
        try:
            _write_whole(self._fd, frame)
        except OSError:
            try:
                os.ftruncate(self._fd, self._num_bytes)
            except OSError:  # half a frame may stand at the end: leave the file and go on in a new one
                self.close()
            raise
        self._num_bytes += len(frame)

    def _make_room(self) -> None:
        """Remove the oldest full files until the limit holds even when every current file fills up."""
        if not self._max_bytes:
            return
        files = _files_by_process(self._folder)
        mine = files.pop(self._identity.process, [])
        full = [mine, *(segments[:-1] for segments in files.values())]
        total = sum(file.num_bytes for segments in full for file in segments)
        total += (len(files) + 1) * (self._segment_bytes + self._header_bytes)
        while total > self._max_bytes and any(full):
            # within a process always its first file: what is left has no hole
            oldest = min((segments for segments in full if segments), key=lambda segments: segments[0].first_ns())
            file = oldest.pop(0)
            file.path.unlink(missing_ok=True)  # another process may have removed it just now
            total -= file.num_bytes


def _files_by_process(folder: Path) -> dict[str, list[_File]]:
    files: dict[str, list[_File]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = SEGMENT_NAME.fullmatch(entry.name)
            if match is None:
                continue
            try:
                stat = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # another process has just removed it
                continue
            file = _File(int(match["index"]), stat.st_size, folder / entry.name)
            files.setdefault(match["process"], []).append(file)
    return {process: sorted(segments, key=lambda file: file.index) for process, segments in sorted(files.items())}


def _write_whole(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    if written < len(data):
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written")
