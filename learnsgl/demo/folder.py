"""The folder that the demo writes into: where the recording lies, and how a new one takes the place of an old one.

The server records into a folder that is made for this run alone and is removed with it when the demo is interrupted.
Only a whole recording becomes `trace/`. Nothing is ever deleted but files with a recording's own names in there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from learnsgl.errors import FolderError, TraceError
from learnsgl.trace.manifest import MANIFEST_NAME
from learnsgl.trace.segments import SEGMENT_NAME
from learnsgl.trace.source import find_runs

DEFAULT_OUT = Path("demo")


class DemoFolder:
    """The demo's files, for a `with` block.

    Attributes:
        trace: the recording of the last demo that came to its end.
        recording: where this demo's server is to record (`--trace`).
        log: what the server logs.
        figure, dark_figure: the timeline.

    Args:
        out: the folder; it is made where it doesn't exist.

    Raises:
        FolderError: it can't be written, or its `trace` isn't the demo's.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.trace = out / "trace"
        self.log = out / "server.log"
        self.figure = out / "timeline.png"
        self.dark_figure = out / "timeline-dark.png"
        self.recording = out

    def __enter__(self) -> DemoFolder:
        """Make the folder, and look for what is in the way before anything is started."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            _check_ours(self.trace)
            self.recording = Path(tempfile.mkdtemp(prefix=".recording-", dir=self.out))
        except OSError as error:
            raise FolderError(
                f"the demo can't write into {self.out} ({error.strerror or error}); name another folder with --out"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove what was recorded and not kept."""
        shutil.rmtree(self.recording, ignore_errors=True)

    def keep_recording(self) -> Path:
        """Put this run's recording where the last one was, and say where that is.

        Raises:
            TraceError: there is no recording.
        """
        runs = find_runs(self.recording)
        if not runs:
            raise TraceError(f"the server has recorded nothing in {self.recording}")
        _remove_recording(self.trace)
        runs[-1].rename(self.trace)
        return self.trace


def _check_ours(trace: Path) -> None:
    """Whether `trace` can be replaced: it isn't there, or holds the files of one recording and nothing else."""
    if trace.is_symlink() or (trace.exists() and not trace.is_dir()):
        raise FolderError(f"{trace} is no folder that the demo made; move it away, or name another folder with --out")
    others = [] if not trace.exists() else [path.name for path in trace.iterdir() if not _is_recorded(path)]
    if others:
        raise FolderError(
            f"{trace} holds {', '.join(sorted(others)[:3])}, which the demo didn't make; move it away, or name another "
            "folder with --out"
        )


def _remove_recording(trace: Path) -> None:
    _check_ours(trace)
    if trace.exists():
        for path in trace.iterdir():
            path.unlink()
        trace.rmdir()


def _is_recorded(path: Path) -> bool:
    """Whether a file has a name that only recordings have."""
    is_known = path.name == MANIFEST_NAME or SEGMENT_NAME.fullmatch(path.name) is not None
    return is_known and path.is_file() and not path.is_symlink()
