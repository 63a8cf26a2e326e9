"""What a benchmark writes: its results, with the command, the machine, the versions and the date that they belong to.

`command.py` makes a `Report` of every run; `docs.py` reads them back and never measures. No host name, user name or
path of the machine is written down.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]

from learnsgl.errors import FolderError

FORMAT = 1
_PACKAGES = (
    "learnsgl",
    "torch",
    "triton",
    "transformers",
    "llama-cpp-python",
    "numpy",
    "msgspec",
    "zstandard",
    "pyzmq",
    "viztracer",
)


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured.

    Attributes:
        cpu: the processor's name.
        num_cores: cores that this process may use.
        memory_bytes: memory of the machine.
        system: operating system and its version.
        load_before: processes that wanted a core in the minute before the run, on average. Above 0.3 or so, something
            else was running, and the figures are worse than the machine's own.
        load_after: the same at the end: the benchmark's own threads, and what else ran.
    """

    cpu: str
    num_cores: int
    memory_bytes: int
    system: str
    load_before: float
    load_after: float

    def text(self) -> str:
        """In a few words."""
        return f"{self.cpu}, {self.num_cores} cores, {self.memory_bytes / 1e9:.0f} GB, {self.system}"


class Report(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One run of one benchmark.

    Attributes:
        format: version of this layout.
        bench: one of `command.BENCHES`.
        command: the command line that measures the same again.
        date: when it began, UTC, ISO 8601.
        duration_s: how long it took.
        settings: every option, by name.
        results: what was measured, raw; each benchmark has a type for it.
    """

    format: int = FORMAT
    bench: str
    command: str
    date: str
    duration_s: float
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    results: Any


def now_iso() -> str:
    """The date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def load() -> float:
    """Processes that wanted a core in the last minute, on average; 0 where the system doesn't tell."""
    with contextlib.suppress(OSError, AttributeError):  # a system without load averages
        return round(os.getloadavg()[0], 2)
    return 0.0


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_machine(load_before: float) -> Machine:
    """The machine as it is now, at the end of a run that began with `load_before`."""
    return Machine(
        cpu=_cpu_name(),
        num_cores=num_cores(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.release()}",
        load_before=load_before,
        load_after=load(),
    )


def read_versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures hang on; those that aren't installed are left out."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _cpu_name() -> str:
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_LONG_BYTES = 100_000
"""Results of thousands of requests aren't read by people: blanks and line breaks would nearly double them."""


def write_report(report: Report, folder: Path) -> Path:
    """Write `<folder>/<bench>.json`.

    Raises:
        FolderError: it can't be written.
    """
    path = folder / f"{report.bench}.json"
    encoded = msgspec.json.encode(report)
    if len(encoded) < _LONG_BYTES:
        encoded = msgspec.json.format(encoded, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded + b"\n")
    except OSError as error:
        raise FolderError(
            f"--out {folder}: {path.name} can't be written ({error.strerror}); give another folder"
        ) from error
    return path


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        FolderError: the file isn't there, or isn't a report.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise FolderError(
            f"{path} can't be read as a benchmark's results ({error}); measure them with: learnsgl bench "
            f"{path.stem} --out {path.parent}"
        ) from error
