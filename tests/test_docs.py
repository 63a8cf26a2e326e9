"""What the README and the pages of docs/ name is there: files, folders, tests, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from learnsgl.cli import make_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [*re.findall(r"\]\(([^)#\s]+)", text), *re.findall(r'(?:src|srcset)="([^"]+)"', text)]
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_tests_that_hold_each_rule_exist() -> None:
    defined = {
        name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", ARCHITECTURE))
    assert named - defined == set()
    files = re.findall(r"`(tests/[\w./]+)`", ARCHITECTURE)
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_files_that_the_architecture_names_exist() -> None:
    paths = {path.relative_to(ROOT / "learnsgl").as_posix() for path in (ROOT / "learnsgl").rglob("*.py")}
    names = {name.rpartition("/")[2] for name in paths}
    said = set(re.findall(r"`((?:[a-z_]+/)?[a-z_]+\.py)`", ARCHITECTURE)) - {"test_house_rules.py"}
    assert sorted(name for name in said if (name not in paths if "/" in name else name not in names)) == []
    rooms = set(re.findall(r"`([a-z]+)/`", ARCHITECTURE))
    assert sorted(room for room in rooms if not (ROOT / "learnsgl" / room).is_dir()) == []


def test_the_commands_in_the_readme_are_understood() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^learnsgl ([a-z][^#|\n]*)", readme, re.MULTILINE)
    assert len(commands) >= 5
    for words in commands:
        if not words.startswith("ready"):
            make_parser().parse_args(words.split())


def test_the_makefile_targets_in_the_readme_exist() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"\bmake ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named <= set(targets.split())
