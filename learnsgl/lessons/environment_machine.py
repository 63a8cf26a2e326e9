"""What lesson 1.1 breaks and mends: a made-up machine, an aged copy of a real library, and commands run with it.

Its notebook calls what is in here. Paths of the reader's machine are shortened where they are printed, so that a saved
lesson names no folder of the one who saved it.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnsgl.doctor.example import LIBRARY, elf_library, make_broken_prefix
from learnsgl.doctor.libstdcxx import Need, find_needs, newest
from learnsgl.doctor.place import this_place

TIMEOUT_S = 120
LINE_CHARS = 110
_REAL = re.compile(rb"GLIBCXX_3\.4\.(\d+)(?=\0)")
_SEARCHED = re.compile(r"search (?:path|cache)=(?P<where>\S*)\s*(?:\((?P<why>[^)]*)\))?")


@dataclass(frozen=True)
class Machine:
    """A made-up machine: an environment with its own C++ library, and the library of the system.

    Attributes:
        environment: the environment's folder (`sys.prefix`).
        own: the folder of the environment's libraries.
        system: the folder of the system's.
    """

    environment: Path
    own: Path
    system: Path


def make_machine(folder: Path) -> Machine:
    """The machine of the report, in a new folder: an environment of conda that ends at 3.4.29, a system at 3.4.33."""
    environment = make_broken_prefix(folder / "conda", newest=29, wanted=31, package="fast_kernels")
    packages = environment / "lib" / "python3.12" / "site-packages"
    for package, wanted in (("text_tools", 21), ("messages", 26)):
        (packages / package).mkdir()
        asked = {LIBRARY: ["GLIBCXX_3.4", f"GLIBCXX_3.4.{wanted}"]}
        (packages / package / "_core.so").write_bytes(elf_library("_core.so", needed=asked))
    machine = Machine(environment, environment / "lib", folder / "system")
    machine.system.mkdir()
    write_library(machine.system, newest=33)
    return machine


def write_library(folder: Path, *, newest: int) -> None:
    """Put a made-up C++ library into a folder, in the place of an older one: it ends at `GLIBCXX_3.4.<newest>`."""
    offered = ["GLIBCXX_3.4", *(f"GLIBCXX_3.4.{number}" for number in range(1, newest + 1)), "CXXABI_1.3"]
    (folder / LIBRARY).write_bytes(elf_library(LIBRARY, defined=offered))


def number_of(version: str) -> int:
    """`N` of `GLIBCXX_3.4.N`; 0 of `GLIBCXX_3.4`."""
    return int(version.removeprefix("GLIBCXX_3.4").removeprefix(".") or 0)


def age_library(source: Path, folder: Path, *, newest: int) -> Path:
    """Copy a real C++ library, and make the copy older: the names of the versions above `newest` are painted over.

    Nothing else is changed, so whoever asks for none of these versions can use the copy.
    """

    def painted(match: re.Match[bytes]) -> bytes:
        return match[0] if int(match[1]) <= newest else re.sub(rb"\d", b"-", match[0])

    folder.mkdir(parents=True)
    copy = folder / LIBRARY
    copy.write_bytes(_REAL.sub(painted, source.read_bytes()))
    return copy


def server_needs(*packages: str) -> list[Need]:
    """What the compiled files of these packages ask of the C++ library, in the environment that runs this."""
    return [need for need in find_needs(this_place(dict).site_folders) if need.package in packages]


def newest_need(needs: list[Need]) -> int:
    """The highest `N` of `GLIBCXX_3.4.N` that is asked for; 0 where none is."""
    return number_of(newest(version for need in needs for version in need.versions) or "GLIBCXX_3.4")


def run(command: str, *, library_path: Path | None = None) -> tuple[int, str]:
    """Print a command, run it, and give its exit code and what it wrote.

    Args:
        command: a command of a POSIX shell, without pipes; `learnsgl` and `python` are those of this environment.
        library_path: `LD_LIBRARY_PATH` for it.
    """
    words = shlex.split(command)
    programs = {"learnsgl": [sys.executable, "-m", "learnsgl"], "python": [sys.executable]}
    words[:1] = programs.get(words[0], words[:1])
    print(f"$ LD_LIBRARY_PATH={library_path} {command}" if library_path else f"$ {command}")
    setting = [f"LD_LIBRARY_PATH={library_path}"] if library_path else []
    return _output_of(["env", *setting, *words])


def _output_of(words: list[str]) -> tuple[int, str]:
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        text, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # a server ends its own processes then
        text, _ = process.communicate()
    return process.returncode, text


def doctor(*words: str, library_path: Path | None = None) -> dict[str, Any]:
    """Run `learnsgl doctor --json`, with more words if given; its report."""
    _, text = run(shlex.join(["learnsgl", "doctor", "--json", *words]), library_path=library_path)
    report: dict[str, Any] = json.loads(text[text.index("{") :])
    return report


def linker_search(module: str, library: str = LIBRARY) -> list[tuple[str, str]]:
    """Where the dynamic linker looks for a library when `module` is imported, as it tells itself (`LD_DEBUG=libs`).

    Returns:
        Each place once, in turn: by which rule the linker looks there, and the last file that it tried there. The last
        place holds the file that it took. Empty where the linker doesn't tell (only glibc's does) or didn't search.
    """
    _, text = _output_of(["env", "LD_DEBUG=libs", sys.executable, "-c", f"import {module}"])
    lines = [line.partition(":")[2].strip() for line in text.splitlines()]
    begins = [place for place, line in enumerate(lines) if line.startswith(f"find library={library} ")]
    return list(dict.fromkeys(_places(lines[begins[0] + 1 :]))) if begins else []


def _places(lines: list[str]) -> Iterator[tuple[str, str]]:
    rule, tried = "", ""
    for line in lines:
        if match := _SEARCHED.match(line):
            if tried:
                yield rule, tried
            rule, tried = match["why"] or "the cache /etc/ld.so.cache", ""
        elif line.startswith("trying file="):
            tried = line.removeprefix("trying file=")
        else:
            break
    if tried:
        yield rule, tried


def tidy(text: str) -> str:
    """The same text, with the folders of this machine named: `<environment>`, `<python>`, `<system>`, `<temp>`, `~`.

    Of a path that lies elsewhere, only the last part is left.
    """
    named = {f"{Path.cwd()}/": "", sys.prefix: "<environment>", tempfile.gettempdir(): "<temp>", str(Path.home()): "~"}
    if sys.base_prefix not in ("/usr", sys.prefix):
        named[sys.base_prefix] = "<python>"
    for path in sorted(named, key=len, reverse=True):
        end = "" if path.endswith("/") else r"(?![\w.-])"
        text = re.sub(rf"(?<![\w.>~/-]){re.escape(path)}{end}", named[path], text)
    text = re.sub(r"(?<![\w.>~/])/(?:usr/)?(?=(?:lib\w*|bin)/)", "<system>/", text)
    return re.sub(r"(?<![\w.:/>~+-])/(?!dev/|proc/|sys/|etc/)(?:[\w.+-]+/)*([\w.+-]+)", r"…\1", text)


def wrapped(text: str) -> str:
    """A long line as several, paths left whole."""
    return textwrap.fill(text, LINE_CHARS, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False)
