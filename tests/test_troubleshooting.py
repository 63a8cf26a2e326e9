"""docs/troubleshooting.md: every error class and every check of the doctor is in it, and its quotes are real."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from learnsgl import errors
from learnsgl.doctor.checks import CHECKS
from learnsgl.errors import LearnsglError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CLASSES = sorted(
    (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LearnsglError)),
    key=lambda each: each.__name__,
)
NOT_OURS = {
    "EADDRINUSE", "Address already in use", "GLIBCXX_… not found", "unrecognized arguments: …", "invalid choice: …",
    "the following arguments are required: …",
}  # fmt: skip
"""Messages of the system, the dynamic linker and argparse."""


def sections() -> dict[str, str]:
    """The text below each heading."""
    parts = re.split(r"^#{2,3} (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def said() -> str:
    """Every text in the package's source, whatever is put in at run time as `…`; one a line."""
    return "\n".join(
        text
        for path in sorted((ROOT / "learnsgl").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (text := text_of(node))
    )


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def quoted() -> list[str]:
    """The messages in the tables of errors: in the first column, for requests in the third, after code and status."""
    found = []
    for heading, text in sections().items():
        for row in re.findall(r"^\| .*`.*$", text, flags=re.MULTILINE):
            found += re.findall(r"`([^`]+ [^`]+)`", row.split(" | ")[2 if heading == "`RequestError`" else 0])
    return [message for message in found if message not in NOT_OURS]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_class_has_a_place(error: type[LearnsglError]) -> None:
    assert f"`{error.__name__}`" in (PAGE if error is LearnsglError else sections()), (
        f"docs/troubleshooting.md has no section on {error.__name__}: add one, with its messages, causes and remedies"
    )


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_a_class_stands_below_its_own_exit_code(error: type[LearnsglError]) -> None:
    if issubclass(error, errors.RequestError) or error is LearnsglError:
        return
    before = PAGE[: PAGE.index(f"### `{error.__name__}`")]
    (code,) = re.findall(r"^## .*exit code (\d)$", before, flags=re.MULTILINE)[-1:]
    assert int(code) == error.exit_code


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_of_the_doctor_is_explained(check) -> None:
    assert f"| `{check.name}` |" in sections()["What `learnsgl doctor` looks at"]


def test_there_is_something_to_check() -> None:
    assert len(quoted()) > 80


@pytest.mark.parametrize("message", quoted())
def test_what_is_quoted_is_what_the_code_says(message: str) -> None:
    for part in message.split("…"):
        words = part.strip(" ,;:()")
        is_said = words in said()
        assert is_said, f"no text in the package holds {words!r}; bring docs/troubleshooting.md up to date"


@pytest.mark.parametrize("words", ["GLIBCXX_3.4.31", "EADDRINUSE", "conda-forge", "--port 0", "LD_LIBRARY_PATH"])
def test_the_two_faults_that_cost_most_are_there(words: str) -> None:
    assert words in PAGE.partition("## Two that cost most")[2].partition("## The command line")[0]
