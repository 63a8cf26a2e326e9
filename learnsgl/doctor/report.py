"""What a check finds, and how findings are shown: lines for people, JSON for programs.

Every check returns a `Finding`; `commands.py` prints them as they come.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    """The server works, but not as well as it could, or not with its default options."""
    FAULT = "fault"
    """The server, or a package that is installed, can't work."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        status: ok, warning or fault.
        said: one sentence on what is there.
        remedy: what to do about it; empty where nothing is to be done.
        commands: shell commands that do it, the first to try first.
        facts: the values behind the sentence, JSON-ready.
    """

    status: Status
    said: str
    remedy: str = ""
    commands: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def ok(said: str, **facts: Any) -> Finding:
    """All is well."""
    return Finding(Status.OK, said, facts=facts)


def warning(said: str, remedy: str, *commands: str, **facts: Any) -> Finding:
    """Something could be better."""
    return Finding(Status.WARNING, said, remedy, commands, facts)


def fault(said: str, remedy: str, *commands: str, **facts: Any) -> Finding:
    """Something is broken."""
    return Finding(Status.FAULT, said, remedy, commands, facts)


def one_line(text: str) -> str:
    """An error's text in one line: the last one, where packages such as numpy put the system's own words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else text


def as_lines(name: str, finding: Finding) -> str:
    """A finding for the terminal: one line, and below it the remedy and the commands where there are any."""
    lines = [f"{finding.status.value:8} {name:14} {finding.said}"]
    if finding.remedy:
        lines.append(f"{'':23} -> {finding.remedy}")
    lines += [f"{'':26} $ {command}" for command in finding.commands]
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """The last line: how many of each."""
    counts = Counter(finding.status for finding in findings)
    words = {Status.FAULT: "fault", Status.WARNING: "warning", Status.OK: "ok"}
    return ", ".join(
        f"{counts[status]} {word}{'s' if counts[status] > 1 and status is not Status.OK else ''}"
        for status, word in words.items()
        if counts[status]
    )


def as_json(findings: Sequence[tuple[str, Finding]]) -> str:
    """All findings as one JSON object, with the most serious status among them."""
    order = list(Status)
    worst = max((finding.status for _, finding in findings), key=order.index, default=Status.OK)
    checks = [{"check": name} | asdict(finding) for name, finding in findings]
    return json.dumps({"status": worst, "checks": checks}, indent=2, ensure_ascii=False)
