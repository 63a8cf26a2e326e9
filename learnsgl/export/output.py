"""Where an export goes: a file that appears only once it is whole, compressed where its name ends in .gz, or a stream.

Every format that is one file writes through this; the folder of tables does so file by file.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from learnsgl.errors import FolderError

Target = Path | BinaryIO
"""A file to make, or an open binary stream such as `sys.stdout.buffer`."""
_GZIP_LEVEL = 6
_BUFFER_BYTES = 1 << 20


class Writable(Protocol):
    """What a format needs of its target."""

    def write(self, data: bytes, /) -> int:
        """Take the bytes over."""
        ...


class Counted:
    """A stream that counts what it is given.

    Attributes:
        num_bytes: bytes written so far.
    """

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self.num_bytes = 0

    def write(self, data: bytes, /) -> int:
        """Write, and count."""
        self.num_bytes += len(data)
        return self._stream.write(data)


@contextlib.contextmanager
def writing(target: Target, *, force: bool = False) -> Iterator[Counted]:
    """Open a target; after the `with`, `num_bytes` is the size of what was made.

    Args:
        target: a file, gzip-compressed where its name ends in `.gz`; or a stream, which is left open.
        force: replace a file that exists.

    Raises:
        FolderError: the file exists and `force` isn't given, or it can't be written. Nothing is left behind then.
    """
    if not isinstance(target, Path):
        yield Counted(target)
        target.flush()
        return
    refuse_existing(target, force=force)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb", buffering=_BUFFER_BYTES) as file:
            counted = Counted(file)
            if target.suffix == ".gz":  # without a name and a time in it, the same trace gives the same bytes
                with gzip.GzipFile("", "wb", _GZIP_LEVEL, cast(BinaryIO, counted), mtime=0) as packed:
                    outer = Counted(packed)
                    yield outer
                outer.num_bytes = counted.num_bytes
            else:
                yield counted
        part.replace(target)
    except OSError as error:
        raise FolderError(f"{target}: can't be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # there is none when all went well
            part.unlink()


def refuse_existing(target: Path, *, force: bool) -> None:
    """Make sure that nothing is overwritten unasked.

    Raises:
        FolderError: something is there, and `force` isn't given; or a folder is where a file should go.
    """
    if target.is_dir():
        raise FolderError(f"{target}: is a folder; name a file")
    if target.exists() and not force:
        raise FolderError(f"{target}: exists already; name another file, or replace it with --force (force=True)")
