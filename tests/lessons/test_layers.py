"""The lessons stand on the server, and never the other way round."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "learnsgl"
ON_TOP = ("demo", "lessons", "viz")
"""Rooms that may import the lessons: none of them is part of the server."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_of_the_server_imports_the_lessons():
    served = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ON_TOP]
    assert len(served) > 50
    assert not [path for path in served if any(name.startswith("learnsgl.lessons") for name in imported(path))]


def test_the_lessons_need_no_torch():
    for path in (PACKAGE / "lessons").glob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] in ("torch", "transformers")]
        assert not [name for name in imported(path) if name.startswith(("learnsgl.engine", "learnsgl.models"))]
