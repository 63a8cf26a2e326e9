"""`docs/glossary.md`: every name of ours in it exists, and each row is whole."""

import re
from pathlib import Path

import pytest

from learnsgl.trace.events import KINDS
from learnsgl.trace.life import STAGES

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| learnsgl |", "| --- "))
]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])})
SOURCE = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "learnsgl").rglob("*.py")))
CHINESE = re.compile("[\u4e00-\u9fff]")


def test_there_are_terms_and_each_stands_once():
    terms = [row[0] for row in ROWS]
    assert len(terms) >= 60
    assert len(set(terms)) == len(terms)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_is_whole(row):
    _, vllm, sglang, chinese, meaning = row
    assert vllm
    assert sglang
    assert CHINESE.search(chinese) or chinese.startswith("token")
    assert meaning.endswith((".", "…"))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_ours_exists(name):
    if name.startswith("--"):
        option = name.removeprefix("--no-").removeprefix("--").replace("-", "_")
        assert re.search(rf"\b{option}: ", SOURCE)
    elif name.endswith(".py"):
        assert any(file.as_posix().endswith(f"/{name}") for file in (ROOT / "learnsgl").rglob("*.py"))
    elif "." in name:
        assert name in KINDS
    else:
        assert re.search(rf"\b{name}\b", SOURCE)


def test_the_stages_are_those_of_the_code():
    numbered = [match[1] for row in ROWS if (match := re.match(r"\d `(\w+)`", row[0]))]
    assert tuple(numbered) == STAGES
