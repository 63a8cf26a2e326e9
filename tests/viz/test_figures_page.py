"""docs/figures.md shows every figure, and its examples are those that the script beside them draws."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from tests.viz.test_every_figure import FIGURES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "figures.md").read_text(encoding="utf-8")
MAX_BYTES = 80_000


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_figures", DOCS / "figures" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_has_an_example_and_every_example_a_place_on_the_page(script: ModuleType) -> None:
    assert sorted(script.EXAMPLES) == sorted(draw.__name__ for draw in FIGURES)
    for name, (function, recordings, _) in script.EXAMPLES.items():
        assert function.__name__ == name
        assert f"`{function.__module__}.{name}`, drawn from `{recordings[0]}`" in PAGE.replace("\n", " ")
        assert f"| `{name}(" in PAGE
        assert f"figures/{name}_light.png" in PAGE
        assert f"figures/{name}_dark.png" in PAGE


def test_examples_are_small_and_as_wide_as_a_page(script: ModuleType) -> None:
    pictures = sorted((DOCS / "figures").glob("*.png"))
    assert [file.name for file in pictures] == sorted(
        f"{name}_{theme}.png" for name in script.EXAMPLES for theme in ("light", "dark")
    )
    for file in pictures:
        assert file.stat().st_size < MAX_BYTES, file.name
        with Image.open(file) as image:
            assert image.width == 900, file.name


def test_names_on_the_page_are_there() -> None:
    for module, name in re.findall(r"`(learnsgl\.viz\.\w+)\.(\w+)`", PAGE):
        assert callable(getattr(importlib.import_module(module), name)), f"{module}.{name}"
    for block in re.findall(r"from (learnsgl[\w.]+) import (\w+)", PAGE):
        assert hasattr(importlib.import_module(block[0]), block[1])
    for link in re.findall(r"\]\(#([\w-]+)\)", PAGE):
        assert re.search(rf"^## {link.replace('-', '[ -]')}$", PAGE, re.IGNORECASE | re.MULTILINE), link


def test_the_animation_is_beside_the_pictures() -> None:
    file = DOCS / "figures" / "animation.html"
    assert 10_000 < file.stat().st_size < MAX_BYTES
    assert "(figures/animation.html)" in PAGE
