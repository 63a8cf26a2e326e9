"""The checks on Python and its packages: the version, the virtual environment, and what learnsgl depends on."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from pathlib import Path

from learnsgl.doctor.place import Place
from learnsgl.doctor.report import Finding, fault, ok, warning

OLDEST, NEWEST = (3, 11), (3, 13)
_NEW_VENV = "python3.12 -m venv .venv && .venv/bin/python -m pip install learnsgl"


def check_python(place: Place) -> Finding:
    """The interpreter's version."""
    return judge_python(sys.version_info[:3])


def judge_python(version: tuple[int, ...]) -> Finding:
    """Whether this version is one that learnsgl runs with."""
    text = ".".join(str(part) for part in version)
    if version[:2] < OLDEST:
        return fault(f"Python {text} is too old; learnsgl runs with 3.11 to 3.13", "use a newer one", _NEW_VENV)
    if version[:2] > NEWEST:
        return warning(
            f"Python {text} is newer than what learnsgl was tried with, 3.11 to 3.13",
            "use one of these if a package can't be installed or loaded", _NEW_VENV,
        )  # fmt: skip
    return ok(f"Python {text}", version=text)


def check_venv(place: Place) -> Finding:
    """Whether packages go into an environment of their own."""
    return judge_venv(Path(sys.prefix), Path(sys.base_prefix))


def judge_venv(prefix: Path, base_prefix: Path) -> Finding:
    """A virtual environment is best; a conda environment works; the system's own folder isn't ours to fill."""
    if prefix != base_prefix:
        return ok(f"a virtual environment, {prefix}", prefix=str(prefix))
    if (prefix / "conda-meta").is_dir():
        return ok(f"a conda environment, {prefix}", prefix=str(prefix))
    return warning(
        f"{prefix} is no virtual environment: its packages are shared with every other program of this Python",
        "make an environment for learnsgl alone", _NEW_VENV, prefix=str(prefix),
    )  # fmt: skip


def check_packages(place: Place) -> Finding:
    """The installed versions of what learnsgl depends on, beside the ranges that its own metadata names."""
    return judge_packages(importlib.metadata.requires("learnsgl") or [])


def judge_packages(requirements: list[str]) -> Finding:
    """Compare what is installed with these requirements; those of extras are left out."""
    from packaging.requirements import Requirement

    missing: list[str] = []
    too_old: list[str] = []
    too_new: list[str] = []
    wanted: list[str] = []
    num_right = 0
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        plain = f"{requirement.name}{requirement.specifier}"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            wanted.append(plain)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            num_right += 1
            continue
        least = [part for part in requirement.specifier if part.operator in {">=", ">"}]
        is_newer = bool(least) and all(part.contains(version, prereleases=True) for part in least)
        (too_new if is_newer else too_old).append(
            f"{requirement.name} {version}, where {requirement.specifier} is asked for"
        )
        wanted.append(plain)
    return _packages_found(num_right, missing, too_old, too_new, wanted)


def _packages_found(
    num_right: int, missing: list[str], too_old: list[str], too_new: list[str], wanted: list[str]
) -> Finding:
    said = [f"not installed: {', '.join(missing)}"] if missing else []
    said += [*too_old, *too_new]
    facts = {"num_right": num_right, "missing": missing, "too_old": too_old, "too_new": too_new}
    if not said:
        return ok(f"{num_right} packages that learnsgl depends on, all in the ranges it asks for", **facts)
    command = shlex.join([sys.executable, "-m", "pip", "install", *wanted])
    if missing or too_old:
        return fault("; ".join(said), "install the versions that learnsgl asks for", command, **facts)
    return warning("; ".join(said), "newer than tried; go back to these versions if something breaks", command, **facts)
