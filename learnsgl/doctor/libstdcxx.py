"""The check on the C++ library: is the one that the interpreter really loads new enough for its packages?

An interpreter of Anaconda loads the libstdc++ of its own folder. Where a compiled package, or a kernel that is
compiled on this machine, was built with a newer compiler, its import ends with `GLIBCXX_3.4.31 not found`.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnsgl.doctor.elf import ElfError, read_versions
from learnsgl.doctor.place import Place
from learnsgl.doctor.report import Finding, fault, ok, one_line

LIBRARY = "libstdc++.so.6"
_VERSION = re.compile(r"(GLIBCXX|CXXABI)_(\d+(?:\.\d+)*)")
_GCC = {
    28: "GCC 9", 29: "GCC 11", 30: "GCC 12", 31: "GCC 13.1", 32: "GCC 13.2", 33: "GCC 14", 34: "GCC 15",
}  # fmt: skip
"""Which compiler brought GLIBCXX_3.4.N. Source: GCC's libstdc++ manual, "ABI Policy and Guidelines"."""
_SYSTEM_FOLDERS = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
_SYSTEM_PREFIXES = {Path("/usr"), Path("/usr/local")}
_COMPILED = re.compile(r"\.so(\.\d+)*$")


@dataclass(frozen=True)
class Need:
    """What a compiled file of a package asks of the C++ library."""

    package: str
    path: Path
    versions: frozenset[str]


def check_libstdcxx(place: Place) -> Finding:
    """Compare the library that is loaded with what the packages ask for."""
    if sys.platform == "darwin":
        return ok("not applicable: macOS has libc++ in the place of libstdc++")
    needs = list(find_needs(place.site_folders))  # while the probe still loads packages
    loaded = place.probe()["libstdcxx"]
    newest_need = newest(version for need in needs for version in need.versions)
    if loaded is None:
        if not needs:
            return ok("no libstdc++ is loaded, and no package asks for one")
        return fault(
            f"this interpreter finds no {LIBRARY}, and {needs[0].package} asks for {newest_need}",
            "install the C++ library of the system", "sudo apt install libstdc++6",
        )  # fmt: skip
    library = Path(loaded)
    defined = read_versions(library).defined
    facts: dict[str, Any] = {
        "library": str(library), "newest_defined": newest(defined), "newest_needed": newest_need,
        "num_compiled_files": len(needs),
    }  # fmt: skip
    lacking = [need for need in needs if need.versions - defined]
    if lacking:
        return _too_old(place, library, defined, lacking, facts)
    refused = [error for error in place.probe()["errors"].values() if "GLIBCXX_" in error or "CXXABI_" in error]
    if refused:
        return fault(f"{library}: {one_line(refused[0])}", *_remedy(place, library, None), **facts)
    if newest_need is None:
        return ok(f"{library} ends at {newest(defined)}; no package asks for it", **facts)
    return ok(f"{library} ends at {newest(defined)}; the packages ask for {newest_need} at most", **facts)


def find_needs(folders: tuple[Path, ...]) -> Iterator[Need]:
    """Every compiled file below these folders that asks for symbol versions of `libstdc++.so.6`."""
    for folder in folders:
        for path in _compiled_files(folder):
            try:
                versions = read_versions(path).needed.get(LIBRARY)
            except (ElfError, OSError):  # a linker script, a file for another kind of machine, a dangling link
                continue
            if versions:
                yield Need(path.relative_to(folder).parts[0].partition(".")[0], path, versions)


def _compiled_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if ".so" in name and _COMPILED.search(name):
                yield Path(parent, name)


def newest(versions: frozenset[str] | Iterator[str]) -> str | None:
    """The highest GLIBCXX version among these, counted as numbers: 3.4.9 comes before 3.4.10."""
    numbers = [match[2] for version in versions if (match := _VERSION.fullmatch(version)) and match[1] == "GLIBCXX"]
    if not numbers:
        return None
    return "GLIBCXX_" + max(numbers, key=lambda text: tuple(int(part) for part in text.split(".")))


def named(version: str | None) -> str:
    """A version with the compiler that brought it: `GLIBCXX_3.4.31 (GCC 13.1)`."""
    if version is None:
        return "no GLIBCXX version"
    gcc = _GCC.get(int(version.rpartition(".")[2])) if version.startswith("GLIBCXX_3.4.") else None
    return f"{version} ({gcc})" if gcc else version


def _too_old(
    place: Place, library: Path, defined: frozenset[str], lacking: list[Need], facts: dict[str, Any]
) -> Finding:
    missing = frozenset(version for need in lacking for version in need.versions - defined)
    wanted = newest(missing) or max(missing)
    packages = list(dict.fromkeys(need.package for need in lacking))
    first = next(need for need in lacking if wanted in need.versions)
    who = f"{first.package} asks" if len(packages) == 1 else f"{first.package} and {len(packages) - 1} more ask"
    said = (
        f"version `{wanted}' not found: {library} ends at {named(newest(defined))}, and {who} "
        f"for {named(wanted)} ({first.path})"
    )
    facts |= {"missing": sorted(missing), "packages": packages}
    return fault(said, *_remedy(place, library, wanted), **facts)


def _remedy(place: Place, library: Path, wanted: str | None) -> tuple[str, str, *tuple[str, ...]]:
    """The remedy in words, then its commands; it depends on whose library is loaded."""
    gcc = _GCC.get(int(wanted.rpartition(".")[2]), "") if wanted and wanted.startswith("GLIBCXX_3.4.") else ""
    least = f">={gcc.removeprefix('GCC ').partition('.')[0]}" if gcc else ""
    conda = f"conda install -c conda-forge {shlex.quote(f'libstdcxx-ng{least}')}"
    folder = str(library.parent)
    if _belongs_to_environment(place.prefix, library):
        return (
            "the environment brings this library along, as conda does, and it comes before the system's: use a virtual "
            "environment of the system's Python (one that conda's Python makes has the same fault), or put a newer "
            "library into the conda environment",
            f"{_system_python()} -m venv .venv && .venv/bin/python -m pip install learnsgl",
            conda,
        )
    if not folder.startswith(_SYSTEM_FOLDERS):
        return (
            f"the library lies in {folder}, which isn't the system's: take that folder out of LD_LIBRARY_PATH, so that "
            "the system's own is found",
            "unset LD_LIBRARY_PATH",
        )
    return (
        "the system's library is older than the package: install a version of the package that was built for this "
        "system, or use an environment that brings a newer library",
        f"conda create -n learnsgl -c conda-forge python=3.12 {shlex.quote(f'libstdcxx-ng{least}')}",
        "sudo apt update && sudo apt install --only-upgrade libstdc++6",
    )


def _belongs_to_environment(prefix: Path, library: Path) -> bool:
    """Whether a library lies in an environment's own folder, as conda's do, rather than in the system's."""
    if (library.parent.parent / "conda-meta").is_dir():
        return True
    prefixes = {prefix, prefix.resolve(), Path(sys.base_prefix)} - _SYSTEM_PREFIXES
    return any(library.is_relative_to(own / "lib") for own in prefixes)


def _system_python() -> str:
    """A Python that doesn't come from conda; `python3` where none lies in the usual place."""
    usual = ("/usr/bin/python3.12", "/usr/bin/python3.13", "/usr/bin/python3.11")
    return next((path for path in usual if Path(path).exists()), "/usr/bin/python3")
