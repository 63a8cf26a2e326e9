"""What lesson 1.1, "Environment", asks of its readers. Its notebook calls the checks in here.

Reports come as dicts, as `learnsgl doctor --json` prints them; libraries come as their bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learnsgl.doctor.accelerator import check_torch
from learnsgl.doctor.environment import judge_python, judge_venv
from learnsgl.doctor.example import LIBRARY, elf_library
from learnsgl.doctor.libstdcxx import check_libstdcxx, newest
from learnsgl.doctor.machine import judge_memory, judge_shared_memory
from learnsgl.doctor.place import bare_probe, prefix_place
from learnsgl.doctor.report import as_json
from learnsgl.lessons.checks import NotYet, Outcome, Result, attempt, check, is_blank

JsonReport = dict[str, Any]

_YES, _NO = ("yes", "y", "true"), ("no", "n", "false")


def reveal_upgrade(guess: object, works: bool) -> Result:
    """Tell whether the newer library of the system helped, once the reader has guessed.

    Args:
        guess: `"yes"` or `"no"`; `...` while there is none.
        works: what the doctor says after the upgrade.
    """
    if is_blank(guess):
        return Result(Outcome.NOT_ATTEMPTED, 'put "yes" or "no" in place of the dots; the doctor\'s answer comes then')
    said = str(guess).strip().lower()
    if said not in _YES + _NO:
        return Result(Outcome.NOT_YET, f'"yes" or "no" is expected, and this is {guess!r}')
    truth = f"{'yes, it loads' if works else 'no, the error is the same'}. The linker never reads the system's library"
    outcome = Outcome.RIGHT if (said in _YES) == works else Outcome.GUESSED
    return Result(outcome, f"{truth}: it takes the first file of that name, and the environment's comes first.")


def cases(machine_library: bytes) -> list[tuple[str, bytes, str]]:
    """What the reader's function is tried on: a name, the bytes, and the newest version in them (empty for none)."""
    plain = elf_library(LIBRARY, defined=["GLIBCXX_3.4", "GLIBCXX_3.4.9", "GLIBCXX_3.4.10", "CXXABI_1.3.15"])
    asks = elf_library("kernels.so", needed={LIBRARY: ["GLIBCXX_3.4.100", "GLIBCXX_3.4.31"]})
    none = elf_library("plain.so", needed={"libc.so.6": ["GLIBC_2.34"]})
    first = elf_library(LIBRARY, defined=["GLIBCXX_3.4"])
    named = [
        ("the environment's library", machine_library),
        ("a library with 3.4.9 and 3.4.10", plain),
        ("a package that asks for 3.4.31 and 3.4.100", asks),
        ("the very first version, which has two numbers only", first),
        ("a library that has nothing to do with C++", none),
    ]
    return [(name, data, _newest_in(data)) for name, data in named]


def _newest_in(data: bytes) -> str:
    found = (name.decode() for name in re.findall(rb"GLIBCXX_\d+(?:\.\d+)*", data))
    return newest(found) or ""


@check
def check_newest_glibcxx(function: Callable[[bytes], str], machine_library: bytes) -> str:
    """Whether a function finds the newest GLIBCXX version that is named in the bytes of a library.

    Args:
        function: of the bytes; it returns a name such as `GLIBCXX_3.4.29`, or an empty text where there is none.
        machine_library: bytes of the made-up machine's library.
    """
    tried = cases(machine_library)
    for name, data, truth in tried:
        answer = attempt(function, data)
        if answer != truth:
            raise NotYet(f"{name}: {_version_hint(answer, data)}")
    return f"right for {len(tried)} libraries; this is what doctor compares, read from the tables that the linker reads"


def _version_hint(answer: Any, data: bytes) -> str:
    names = sorted({name.decode() for name in re.findall(rb"GLIBCXX_\d+(?:\.\d+)*", data)})
    if isinstance(answer, bytes):
        return "your function gave bytes; `.decode()` makes a text of them"
    if not isinstance(answer, str):
        return f"a text is expected, and your function gave {answer!r}"
    if not names:
        return f"no GLIBCXX version is in it, so an empty text is expected, and your function gave {answer!r}"
    if answer == names[-1]:
        return f"{answer} is the last one in the order of the alphabet; compare the numbers in the names as numbers"
    if answer in names:
        return f"{answer} is in it, but it isn't the newest"
    if re.fullmatch(r"[\d.]+", answer):
        return f"your function gave {answer!r}; give the whole name, with GLIBCXX_ in front"
    return f"your function gave {answer!r}, which isn't the name of a version in these bytes"


def sick_report(broken: Path) -> JsonReport:
    """The doctor's report on a machine with several troubles at once.

    Args:
        broken: the made-up environment whose C++ library is too old.
    """
    place = prefix_place(broken, lambda: bare_probe(broken) | {"torch": {"error": "ImportError: libstdc++.so.6"}})
    findings = [
        ("python", judge_python((3, 12, 4))),
        ("venv", judge_venv(broken, broken)),
        ("memory", judge_memory(2_000_000_000)),
        ("shared-memory", judge_shared_memory(broken / "shm")),
        ("libstdcxx", check_libstdcxx(place)),
        ("torch", check_torch(place)),
    ]
    report: JsonReport = json.loads(as_json(findings))
    return report


@check
def check_prescribe(function: Callable[[JsonReport], Mapping[str, str]], reports: Sequence[JsonReport]) -> str:
    """Whether a function names the command that cures each fault of a report.

    Args:
        function: of a report; it returns the first command of each fault, by the name of the check.
        reports: to try it on; the checks also try it on one without a fault.
    """
    healthy = {"status": "ok", "checks": [{"check": "python", "status": "ok", "commands": [], "remedy": ""}]}
    for report in [*reports, healthy]:
        answer = attempt(function, report)
        if not isinstance(answer, Mapping):
            raise NotYet(f"a dict is expected, from the name of a check to a command, and this is {answer!r}")
        if hint := _prescription_hint(answer, report):
            raise NotYet(hint)
    num_faults = sum(len(_prescription(report)) for report in reports)
    return f"{num_faults} faults of {len(reports)} reports, each with its command, and nothing for what is well"


def _prescription(report: JsonReport) -> dict[str, str]:
    return {one["check"]: one["commands"][0] for one in report["checks"] if one["status"] == "fault"}


def _prescription_hint(answer: Mapping[str, Any], report: JsonReport) -> str | None:
    truth = _prescription(report)
    status = {one["check"]: one["status"] for one in report["checks"]}
    commands = {one["check"]: one["commands"] for one in report["checks"]}
    for name, given in answer.items():
        if name not in status:
            return f"{name!r} is no check of this report; the key is what stands in the field `check`"
        if name not in truth:
            return f"{name} is no fault: its status is {status[name]!r}"
        if isinstance(given, (list, tuple)):
            return f"{name}: one command is asked for, the one to try first, and this is {given!r}"
        if given != truth[name]:
            place = "it is another command of the list" if given in commands[name] else "it isn't a command of the list"
            return f"{name}: the command that is to be tried first is asked for, and {place}"
    missing = [name for name in truth if name not in answer]
    if missing:
        return f"{len(missing)} of {len(truth)} faults are missing from your dict"
    return None
