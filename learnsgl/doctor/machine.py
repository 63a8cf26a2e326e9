"""The checks on the machine: the HTTP port, the disk, the memory, the folder of the sockets, and shared memory."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from learnsgl.config import BUILT_IN_MODEL
from learnsgl.doctor.place import Place
from learnsgl.doctor.report import Finding, fault, ok, warning
from learnsgl.errors import FolderError, LearnsglError, PortInUseError

WHEEL_BYTES = 93_000_000
"""The built-in model as it is downloaded."""
UNPACKED_BYTES = 110_000_000
"""The GGUF file that is taken out of it, there until it is converted."""
MODEL_BYTES = 542_000_000
"""The built-in model in float32, on disk and in memory."""
PROCESS_BYTES = 900_000_000
"""What the processes of a server take beside weights and KV cache: torch in one of them, Python in all."""
KV_TOKEN_BYTES = 46_080
"""KV cache that one token of the built-in model takes in float32: 2 x 30 layers x 3 heads x 64 x 4 bytes."""
CONTEXT_TOKENS = 8192
TRACE_BYTES = 2 << 30
"""What a recording may take by default (`--trace-max-bytes`)."""
SHM_BYTES = 64 << 20
_CGROUP = Path("/sys/fs/cgroup")


def check_port(place: Place) -> Finding:
    """Whether the HTTP port is free, and who holds it."""
    from learnsgl.server.port import bind_port

    try:
        bind_port(place.host, place.port).close()
    except PortInUseError as error:
        return warning(
            str(error).partition("; ")[0], "stop that process, or serve at another port (0 takes a free one)",
            "learnsgl ps", "learnsgl serve --port 0", port=place.port,
        )  # fmt: skip
    except LearnsglError as error:
        return warning(str(error), "serve at another address or port", "learnsgl serve --port 0", port=place.port)
    return ok(f"port {place.port} of {place.host} is free", port=place.port)


def check_cache(place: Place) -> Finding:
    """Whether models can be kept."""
    folder = place.cache
    while not folder.exists():  # the server makes what is missing
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return fault(
            f"the cache folder {place.cache} can't be written ({error.strerror})",
            "make it writable, or set LEARNSGL_HOME to a folder that is", "export LEARNSGL_HOME=$HOME/learnsgl",
            folder=str(place.cache),
        )  # fmt: skip
    num_bytes = folder_bytes(place.cache)
    return ok(f"{place.cache} can be written, and holds {mb(num_bytes)}", folder=str(place.cache), bytes=num_bytes)


def check_disk(place: Place) -> Finding:
    """Whether the disk has room for the built-in model, where it isn't here yet, and for a recording."""
    folder = place.cache
    while not folder.exists():
        folder = folder.parent
    is_here = (place.cache / "models" / BUILT_IN_MODEL).is_dir()
    return judge_disk(place.cache, shutil.disk_usage(folder).free, is_here=is_here)


def judge_disk(cache: Path, free_bytes: int, *, is_here: bool) -> Finding:
    """Compare the free bytes with what a pull of the built-in model, and a recording, take."""
    needed = 0 if is_here else WHEEL_BYTES + UNPACKED_BYTES + MODEL_BYTES
    said = f"{mb(free_bytes)} are free where {cache} lies"
    elsewhere = "free some space, or set LEARNSGL_HOME to a folder on another disk"
    facts = {"free_bytes": free_bytes, "needed_bytes": needed}
    if free_bytes < needed:
        return fault(f"{said}, and the built-in model takes {mb(needed)}", elsewhere, "df -h", **facts)
    if free_bytes < needed + TRACE_BYTES:
        return warning(
            f"{said}; a recording alone may grow to {mb(TRACE_BYTES)}",
            "free some space, or set a smaller limit for recordings",
            "learnsgl serve --trace traces --trace-max-bytes 200000000", **facts,
        )  # fmt: skip
    return ok(said, **facts)


def check_memory(place: Place) -> Finding:
    """Whether the built-in model and its KV cache fit."""
    import psutil  # type: ignore[import-untyped]

    available = int(psutil.virtual_memory().available)
    limit = _cgroup_left()
    return judge_memory(available if limit is None else min(available, limit))


def judge_memory(available_bytes: int) -> Finding:
    """Compare the available bytes with the model, the processes, and the KV cache of one request of full length."""
    least = MODEL_BYTES + PROCESS_BYTES
    one_request = KV_TOKEN_BYTES * CONTEXT_TOKENS
    said = f"{mb(available_bytes)} of memory are available"
    facts = {"available_bytes": available_bytes, "least_bytes": least, "full_request_bytes": one_request}
    if available_bytes < least:
        return fault(
            f"{said}, and the server with the built-in model takes {mb(least)}",
            "end other programs, or give the container more; tiny-random needs far less",
            "learnsgl serve --model tiny-random", **facts,
        )  # fmt: skip
    if available_bytes < least + 4 * one_request:  # --memory-ratio gives a quarter of what is left to the KV cache
        return warning(
            f"{said}: after the model the KV cache holds less than one request of {CONTEXT_TOKENS:,} tokens",
            "end other programs, give the KV cache a larger share, or store it in bfloat16",
            "learnsgl serve --memory-ratio 0.6", "learnsgl serve --dtype bfloat16", **facts,
        )  # fmt: skip
    return ok(said, **facts)


def _cgroup_left() -> int | None:
    """What a container's limit leaves, or `None` where there is no limit."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:  # not Linux, or not in a container
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else None


def check_sockets(place: Place) -> Finding:
    """Whether the temporary folder takes the sockets between the server's processes."""
    from learnsgl.message.sockets import make_socket_folder, remove_socket_folder

    to_do = "set TMPDIR to a folder on a local disk with a short path", "export TMPDIR=/tmp"
    try:
        folder = make_socket_folder()
    except FolderError as error:
        return fault(str(error), *to_do, folder=str(place.temp))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
            bound.bind(str(folder / "doctor.ipc"))
    except OSError as error:
        return fault(f"{place.temp} takes no sockets ({error.strerror})", *to_do, folder=str(place.temp))
    finally:
        remove_socket_folder(folder)
    return ok(f"{place.temp} takes the sockets of the server's processes", folder=str(place.temp))


def check_shared_memory(place: Place) -> Finding:
    """Whether there is shared memory, in which the start-up queue keeps its locks."""
    if sys.platform != "linux":
        return ok("not applicable: this system keeps shared memory out of sight")
    return judge_shared_memory(Path("/dev/shm"))


def judge_shared_memory(folder: Path) -> Finding:
    """Whether the folder is there, can be written, and has room."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return fault(
            f"{folder} isn't there or can't be written; processes can't share locks without it",
            "mount it", f"sudo mount -t tmpfs -o mode=1777 shm {folder}",
        )  # fmt: skip
    free = shutil.disk_usage(folder).free
    if free < SHM_BYTES:
        return warning(
            f"{folder} has {mb(free)} left", "free some, or start the container with more",
            "docker run --shm-size=1g ...", free_bytes=free,
        )  # fmt: skip
    return ok(f"{folder} has {mb(free)} left", free_bytes=free)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)


def mb(num_bytes: int) -> str:
    """Bytes for people: `540 MB`, `77.1 GB`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
