"""The results of `make gpu-check` as a few files of a size that every transfer takes, and back from these.

`results.zip` holds summary, logs, figures and recordings; `cache.zip` the compiled kernels, so that a machine that
starts bare need not compile them again. `gpu_check.py` packs after every part, and unpacks for `--resume-from`.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

from gpu_bundle import MIB, PIECE, cut, join

PIECE_BYTES = 15 * MIB
MAX_FILES = 4
"""60 MiB in all. Pieces of a cache that would need more are left behind; it only saves time."""
CACHE = "cache"
_UNPACKING = "unpacking"
_LEFT_BEHIND = ("site", "wheels", "bundle", "headers", "packed", "back", _UNPACKING, CACHE)
"""What was brought, and what can be made again."""


def pack_results(out: Path, target: Path, *, with_cache: bool) -> list[Path]:
    """Write the packed files, in the place of those of an earlier call.

    Args:
        out: folder of the results.
        target: folder of the packed files.
        with_cache: whether compiled kernels come along.
    """
    target.mkdir(parents=True, exist_ok=True)
    own = [path for path in _files(out) if target not in path.parents]
    results = [path for path in own if path.relative_to(out).parts[0] not in _LEFT_BEHIND]
    packed = _pack("results.zip", results, out, target)
    if with_cache and (out / CACHE).is_dir():
        cache = _pack("cache.zip", _files(out / CACHE), out, target)
        if len(packed) + len(cache) > MAX_FILES:
            for file in cache:
                file.unlink()
            cache = []
        packed += cache
    return packed


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _pack(name: str, files: Iterable[Path], base: Path, target: Path) -> list[Path]:
    for old in [path for path in target.iterdir() if path.name == name or path.name.startswith(f"{name}.piece-")]:
        old.unlink()
    with zipfile.ZipFile(target / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(base).as_posix())
    return cut(target / name, PIECE_BYTES)


def unpack_results(folder: Path, out: Path) -> list[str]:
    """Put an earlier call's results back, from its packed files or from a copy of its folder; neither is changed.

    Returns:
        Names of what was taken over.

    Raises:
        FileNotFoundError: the folder holds neither, or a piece is missing.
    """
    if (folder / "summary.json").is_file():
        shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("packed"), copy_function=_copy)
        return ["summary.json"]
    back = out / _UNPACKING
    shutil.rmtree(back, ignore_errors=True)
    back.mkdir(parents=True)
    names = ("results.zip", "cache.zip")
    for path in sorted(folder.rglob("*.zip*")):
        found = PIECE.fullmatch(path.name)
        if (found["name"] if found else path.name) in names:
            _copy(path, back / path.name)
    join(back)
    taken = [name for name in names if (back / name).is_file()]
    if "results.zip" not in taken:
        raise FileNotFoundError(f"{folder} holds neither summary.json nor results.zip of an earlier call")
    for name in taken:
        with zipfile.ZipFile(back / name) as archive:
            archive.extractall(out)
    shutil.rmtree(back)
    return taken


def _copy(source: str | Path, target: str | Path) -> Path:
    """Copy without the mode: what came back may be read-only, and is written to here."""
    return Path(shutil.copyfile(source, target))
