"""Where a trace's bytes come from: the folder of a run, or one packed file. Nothing outside either is ever opened.

`reader.py` and `commands.py` call this. Only two kinds of name are looked at, `manifest.json` and
`<process>.<k>.trace`, directly inside the folder or file; links and everything else are left alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from learnsgl.errors import FolderError, TraceFormatError
from learnsgl.trace.manifest import MANIFEST_NAME, parse_manifest
from learnsgl.trace.segments import SEGMENT_NAME

MAX_MANIFEST_BYTES = 16 << 20
PACKED_SUFFIX = ".trace.zip"


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A file of a process, not opened yet.

    Attributes:
        name: its name in the folder or packed file.
        process: the process that wrote it.
        index: its place among the process's files, from 1.
        num_bytes: its size when it was listed.
    """

    name: str
    process: str
    index: int
    num_bytes: int


class Source(Protocol):
    """A folder or a packed file."""

    path: Path

    def segments(self) -> list[SegmentFile]:
        """All files of all processes, by process and index."""
        ...

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """One of them, for reading; or the manifest."""
        ...

    def has_manifest(self) -> bool:
        """Whether there is a manifest to open."""
        ...


class FolderSource:
    """The folder of a run, which may still be written to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def segments(self) -> list[SegmentFile]:
        """All regular files with a segment's name."""
        files = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # the size limit has just removed it
                        files += _segment_file(entry.name, entry.stat(follow_symlinks=False).st_size)
        return sorted(files, key=lambda file: (file.process, file.index))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A regular file of the folder; links are not followed.

        Raises:
            TraceFormatError: it is gone, or isn't a regular file.
        """
        path = self.path / name
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError as error:
            hint = "removed while the trace was read, by the limit on size? Read the trace again"
            raise TraceFormatError(f"{path}: is gone: {hint}") from error
        except OSError as error:
            raise TraceFormatError(f"{path}: can't be read: {error.strerror or error}") from error
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise TraceFormatError(f"{path}: not a regular file")
            yield file

    def has_manifest(self) -> bool:
        """Whether there is a manifest that isn't a link."""
        path = self.path / MANIFEST_NAME
        return path.is_file() and not path.is_symlink()


class PackedSource:
    """One zip file, as `pack` writes it. Its members' names are matched, never used as paths."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as packed:
                members = packed.infolist()
        except zipfile.BadZipFile as error:
            raise TraceFormatError(
                f"{path}: not a packed trace ({error}); give a run's folder, or a file that `learnsgl trace pack` wrote"
            ) from error
        self._sizes = {member.filename: member.file_size for member in members}
        if len(self._sizes) < len(members):
            raise TraceFormatError(f"{path}: holds two files of the same name")
        if encrypted := [member.filename for member in members if member.flag_bits & 1]:
            raise TraceFormatError(f"{path}: {encrypted[0]} is encrypted; packed traces aren't")

    def segments(self) -> list[SegmentFile]:
        """All members with a segment's name."""
        files = [file for name, num_bytes in self._sizes.items() for file in _segment_file(name, num_bytes)]
        return sorted(files, key=lambda file: (file.process, file.index))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One member.

        Raises:
            TraceFormatError: the zip file is damaged there.
        """
        try:
            with zipfile.ZipFile(self.path) as packed, packed.open(name) as file:
                yield cast(BinaryIO, file)
        except (OSError, zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise TraceFormatError(f"{self.path}: {name} can't be read: {error}") from error

    def has_manifest(self) -> bool:
        """Whether there is a manifest."""
        return MANIFEST_NAME in self._sizes


def open_source(path: Path) -> Source:
    """The trace at this path: the folder of a run, the newest run in a folder of runs, or a packed file.

    Raises:
        FolderError: nothing is there, or it can't be read.
        TraceFormatError: what is there isn't a trace.
    """
    try:
        if not path.is_dir():
            if not path.exists():
                raise FolderError(
                    f"{path}: no such file or folder; give a run's folder, a folder of runs or a packed file"
                )
            return PackedSource(path)
        if is_run(path):
            return FolderSource(path)
        runs = find_runs(path)
    except OSError as error:
        raise FolderError(f"{path}: can't be read: {error.strerror or error}") from error
    if not runs:
        raise TraceFormatError(
            f"{path}: no trace: neither {MANIFEST_NAME} nor NAME.1.trace is in it, and no run's folder"
        )
    newest = runs[-1]
    return FolderSource(newest) if newest.is_dir() else PackedSource(newest)


def load_manifest(source: Source) -> dict[str, Any]:
    """The manifest; empty where there is none.

    Raises:
        TraceFormatError: it isn't a JSON object.
    """
    if not source.has_manifest():
        return {}
    with source.open(MANIFEST_NAME) as file:
        return parse_manifest(file.read(MAX_MANIFEST_BYTES), f"{source.path}: {MANIFEST_NAME}")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    source = FolderSource(folder)
    return source.has_manifest() or bool(source.segments())


def find_runs(root: Path) -> list[Path]:
    """The runs directly in a folder, packed ones too, oldest first."""
    runs = []
    for path in root.iterdir():
        if path.is_symlink():
            continue
        if path.name.endswith(PACKED_SUFFIX) or (path.is_dir() and is_run(path)):
            runs.append(path)
    return sorted(runs, key=lambda path: (_started(path), path.name))


def _started(path: Path) -> str:
    try:
        source = FolderSource(path) if path.is_dir() else PackedSource(path)
        return str(load_manifest(source).get("started", ""))
    except TraceFormatError:  # listed first, and its own error is shown when it is opened
        return ""


def _segment_file(name: str, num_bytes: int) -> list[SegmentFile]:
    match = SEGMENT_NAME.fullmatch(name)
    return [SegmentFile(name, match["process"], int(match["index"]), num_bytes)] if match else []
