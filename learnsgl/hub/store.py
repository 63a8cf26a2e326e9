"""The cache folder's models: each is written beside its place, then moved there whole, under a lock.

`builtin.py`, `tiny.py` and `convert.py` build into it. A manifest with the size and SHA-256 of each file is what
makes a model complete; a later start needs only the manifest and the sizes, which takes well under a millisecond.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from learnsgl.errors import FolderError

MANIFEST = "learnsgl.json"
LAYOUT = 1
"""Raised when what a build writes changes; models of an older layout are built again."""
CHUNK_BYTES = 1 << 20
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
CANNOT_WRITE = DISK_FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
"""The system's reasons for refusing to write."""


def models_folder(cache: Path) -> Path:
    """Where complete models lie, one folder each."""
    return cache / "models"


def downloads_folder(cache: Path) -> Path:
    """Where files are downloaded to; half-finished ones end in `.part`."""
    return cache / "downloads"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete model, or `None` where the folder isn't one (any more)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["layout"] != LAYOUT:
            return None
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        whole = all(size == manifest["files"][name]["bytes"] for name, size in sizes.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None  # missing, cut short, or of another layout: all mean "build it"
    return manifest if whole else None


def find_built(models: Path, origin: Mapping[str, Any]) -> Path | None:
    """The complete model whose origin has all the entries of `origin`, or `None`."""
    for folder in sorted(models.glob("[!.]*")):
        manifest = read_manifest(folder)
        if manifest is not None and origin.items() <= manifest["origin"].items():
            return folder
    return None


def build_once(folder: Path, origin: Mapping[str, Any], build: Callable[[Path], None], *, progress: bool) -> None:
    """Make sure that `folder` holds a complete model; `build` writes it where it doesn't.

    Several processes may call this at once: one builds, the others wait for it.

    Args:
        folder: the model's place, a folder in `models_folder`.
        origin: what it is made from, kept in the manifest.
        build: writes every file of the model into the empty folder that it is given.
        progress: say so on stderr while another process is waited for.

    Raises:
        FolderError: the folder can't be written, or the disk is full.
    """
    with writing_to(folder.parent):
        if read_manifest(folder) is not None:
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, progress):
            if read_manifest(folder) is not None:
                return
            fresh = folder.with_name(f".{folder.name}.new")
            stale = folder.with_name(f".{folder.name}.old")
            for leftover in (fresh, stale):  # of a build that was killed; the lock is ours, so nobody uses them
                shutil.rmtree(leftover, ignore_errors=True)
            fresh.mkdir()
            try:
                build(fresh)
                _write_manifest(fresh, origin)
                if folder.exists():
                    folder.rename(stale)
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
                shutil.rmtree(stale, ignore_errors=True)


def remove_built(folder: Path) -> None:
    """Remove a model that `build_once` made; whoever builds it just now is waited for.

    Raises:
        FolderError: it can't be removed.
    """
    stale = folder.with_name(f".{folder.name}.old")
    with writing_to(folder.parent), _locked(folder, progress=True):
        shutil.rmtree(stale, ignore_errors=True)
        folder.rename(stale)  # in one step: nobody finds half a model
        shutil.rmtree(stale)


def _write_manifest(folder: Path, origin: Mapping[str, Any]) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())}
    for name in files:
        _sync(folder / name)
    text = json.dumps({"layout": LAYOUT, "origin": dict(origin), "files": files}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    _sync(folder / MANIFEST)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path, progress: bool) -> Iterator[None]:
    """Hold the model's lock file. It stays in place: removing it would let two processes hold two locks."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is preparing {folder.name}; waiting for it", progress)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn the system's errors about a folder that can't be written into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise FolderError(
                f"the disk of {folder} is full; free some space, or set LEARNSGL_HOME to a folder on another disk"
            ) from error
        if error.errno in CANNOT_WRITE:
            raise FolderError(
                f"can't write to {error.filename or folder} ({error.strerror}); set LEARNSGL_HOME to a folder that "
                "you may write to"
            ) from error
        raise


def need_space(folder: Path, num_bytes: int) -> None:
    """Refuse to begin what the disk can't take.

    Raises:
        FolderError: fewer than `num_bytes` are free where `folder` lies.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise FolderError(
            f"{num_bytes / 1e6:.0f} MB are needed in {folder}, and {free / 1e6:.0f} MB are free; free some space, or "
            "set LEARNSGL_HOME to a folder on another disk"
        )


def say(text: str, progress: bool) -> None:
    """One line for the person at the terminal."""
    if progress:
        print(text, file=sys.stderr, flush=True)
