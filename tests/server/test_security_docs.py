"""docs/security.md names a test for every promise; each of these must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^\| ([A-Z].*?) \| (.*) \|$", PAGE, re.MULTILINE)


def test_there_are_promises() -> None:
    assert len(PROMISES) >= 8


@pytest.mark.parametrize(("promise", "tests"), PROMISES)
def test_the_tests_of_a_promise_exist(promise: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    assert named, promise
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name
