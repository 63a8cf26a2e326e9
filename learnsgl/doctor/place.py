"""What the doctor looks at: this interpreter, or another environment; its folders, its port, its libraries.

`commands.py` makes one `Place` for a run and every check is given it; tests make their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnsgl.config import ServerConfig, cache_folder
from learnsgl.errors import FolderError

PROBE_TIMEOUT_S = 20.0


class Probe:
    """What an interpreter loads; it is asked in a process of its own, which runs while other checks do.

    Args:
        python: the interpreter.
        torch: also ask its torch, which takes seconds to load.
    """

    def __init__(self, python: Path, *, torch: bool) -> None:
        program = str(Path(__file__).with_name("probe.py"))
        self._process = subprocess.Popen(
            [str(python), program, *(["--torch"] if torch else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._facts: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        """What it said; see `probe.py`.

        Raises:
            TimeoutError: it took too long.
            ChildProcessError: it ended without an answer.
        """
        if self._facts is None:
            try:
                out, err = self._process.communicate(timeout=PROBE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"loading the packages took more than {PROBE_TIMEOUT_S:g} s") from None
            if self._process.returncode != 0:
                last = (err.strip().splitlines() or ["it said nothing"])[-1]
                raise ChildProcessError(f"loading the packages ended with exit code {self._process.returncode}: {last}")
            self._facts = json.loads(out.strip().splitlines()[-1])
        return self._facts

    def close(self) -> None:
        """End the process where it still runs, and close its pipes."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Place:
    """What the checks look at.

    Attributes:
        python: the interpreter; `None` in a prefix that has none.
        prefix: its environment's folder (`sys.prefix`).
        site_folders: where its packages lie.
        host: address of the HTTP port that is looked at.
        port: its number.
        cache: folder of pulled models.
        temp: the system's temporary folder.
        probe: what the interpreter loads; see `probe.py` for the keys.
    """

    python: Path | None
    prefix: Path
    site_folders: tuple[Path, ...]
    host: str
    port: int
    cache: Path
    temp: Path
    probe: Callable[[], dict[str, Any]]


def this_place(probe: Callable[[], dict[str, Any]], *, port: int | None = None) -> Place:
    """The interpreter that runs this, and its machine."""
    names = {"site-packages", "dist-packages"}
    sites = tuple(dict.fromkeys(Path(path) for path in sys.path if Path(path).name in names and Path(path).is_dir()))
    default = ServerConfig()
    return Place(
        python=Path(sys.executable), prefix=Path(sys.prefix), site_folders=sites, host=default.host,
        port=default.port if port is None else port, cache=cache_folder(), temp=Path(tempfile.gettempdir()),
        probe=probe,
    )  # fmt: skip


def python_of(prefix: Path) -> Path | None:
    """The interpreter in an environment's folder, where there is one.

    Raises:
        FolderError: there is no such folder.
    """
    if not prefix.is_dir():
        raise FolderError(f"--prefix {prefix} is no folder; give an environment's folder, as sys.prefix names it")
    python = prefix / "bin" / "python"
    return python if python.is_file() else None


def prefix_place(prefix: Path, probe: Callable[[], dict[str, Any]]) -> Place:
    """Another environment on this machine."""
    sites = tuple(sorted(prefix.glob("lib*/python3*/site-packages")))
    here = this_place(probe)
    return Place(python_of(prefix), prefix, sites, here.host, here.port, here.cache, here.temp, probe)


def bare_probe(prefix: Path) -> dict[str, Any]:
    """What an interpreter in `prefix` would load, where there is none to ask.

    Conda's interpreters carry the run path `$ORIGIN/../lib`, so that the environment's own library comes first.
    """
    library = prefix / "lib" / "libstdc++.so.6"
    return {"libstdcxx": str(library) if library.exists() else None, "errors": {}, "torch": None}
