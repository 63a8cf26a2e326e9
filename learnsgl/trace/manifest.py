"""The folder of a run and its `manifest.json`: what ran, with which options and versions, on which machine.

The parent process creates it before any other starts, and adds what is known later. No host name, user name or
environment is written down.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from learnsgl.errors import FolderError, TraceFormatError
from learnsgl.trace.clock import ClockAnchor, read_anchor
from learnsgl.trace.frames import FORMAT_VERSION

MANIFEST_NAME = "manifest.json"
FORMAT = "learnsgl-trace"
_PACKAGES = (
    "learnsgl", "torch", "triton", "transformers", "tokenizers", "safetensors", "numpy", "pyzmq", "msgspec",
    "zstandard", "fastapi", "uvicorn", "flashinfer-python",
)  # fmt: skip

logger = logging.getLogger(__name__)


class RunState(StrEnum):
    """What the manifest's `state` says. A server that was killed says nothing more: its state stays `running`."""

    RUNNING = "running"
    STOPPED = "stopped"
    """The recording has ended, and the server went on."""
    ENDED = "ended"
    FAILED = "failed"


def create_run(
    root: Path, config_json: dict[str, Any], command: Sequence[str], model: dict[str, Any] | None = None
) -> Path:
    """Make the folder of a new run, `<root>/<UTC date and time>-<run id>`, with its manifest in it.

    Args:
        root: folder for recordings; made where it doesn't exist.
        config_json: the configuration, from `Config.to_json`.
        command: the command line.
        model: what is known of the model already; more can follow by `update_manifest`.

    Raises:
        FolderError: the folder can't be made or written.
    """
    anchor = read_anchor()
    run_id = secrets.token_hex(4)
    started = datetime.fromtimestamp(anchor.time_ns / 1e9, UTC)
    folder = root / f"{started:%Y%m%d-%H%M%S}-{run_id}"
    try:
        folder.mkdir(mode=0o700, parents=True)
        _write_atomically(folder, _manifest(run_id, started, anchor, config_json, command, model))
    except OSError as error:
        raise FolderError(
            f"--trace {root}: no recording can be made there ({error.strerror or error}); give a folder that you can "
            "write, or leave the option out"
        ) from error
    return folder


def update_manifest(folder: Path, **facts: Any) -> bool:
    """Add facts that are known later: `model=...`, `engine=...`, `state="ended"`, `exit_code=0`.

    Returns:
        Whether they were written. A disk that takes no more is logged and does no further harm.
    """
    try:
        _write_atomically(folder, read_manifest(folder) | facts)
    except (OSError, TraceFormatError) as error:
        logger.warning("the manifest of the trace in %s can't be updated: %s", folder, error)
        return False
    return True


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run; empty where there is none.

    Raises:
        TraceFormatError: it isn't a JSON object.
    """
    path = folder / MANIFEST_NAME
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """The manifest in these bytes.

    Raises:
        TraceFormatError: it isn't a JSON object.
    """
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise TraceFormatError(f"{where}: not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise TraceFormatError(f"{where}: holds {type(manifest).__name__}, expected a JSON object")
    return manifest


def run_id_of(folder: Path) -> str:
    """The id of the run in a folder: the manifest's, or the last part of the folder's name."""
    try:
        run_id = read_manifest(folder).get("run_id")
    except (OSError, TraceFormatError):
        run_id = None
    return run_id if isinstance(run_id, str) else folder.name.rpartition("-")[2]


def _manifest(
    run_id: str,
    started: datetime,
    anchor: ClockAnchor,
    config_json: dict[str, Any],
    command: Sequence[str],
    model: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "run_id": run_id,
        "state": RunState.RUNNING,
        "started": started.isoformat(timespec="milliseconds"),
        "clock": anchor.to_json(),
        "command": list(command),
        "config": config_json,
        "model": model,
        "versions": _versions(),
        "hardware": _hardware(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # some are not everywhere
            versions[package] = importlib.metadata.version(package)
    return versions


def _hardware() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpu_names(),
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):  # not Linux, or /proc isn't mounted
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # a system that doesn't say
        return None


def _gpu_names() -> list[str]:
    """Names of NVIDIA GPUs, as the driver's files have them; the engine's own facts name the one that is used."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):  # a GPU that this container may not see
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("Model:"):
                    names.append(line.partition(":")[2].strip())
    return names


def _write_atomically(folder: Path, manifest: dict[str, Any]) -> None:
    temporary = folder / f".{MANIFEST_NAME}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / MANIFEST_NAME)
    except OSError:
        with contextlib.suppress(OSError):  # the error that matters is the one above
            temporary.unlink()
        raise
