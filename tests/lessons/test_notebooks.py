"""The form of the lessons: small cells, saved as executed, in the order that readers know, and nothing private."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
LESSONS = sorted(path for path in FOLDER.glob("*/*.ipynb") if re.match(r"\d_\d+_", path.name))
MAX_CODE_CELLS = 40
MAX_LINES = 15
PARTS = ("Predict", "Exercise", "Break it", "Now record your own", "Recap", "Sources")

pytestmark = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_its_cells_are_few_and_small(path):
    code = cells(path, "code")
    assert len(code) <= MAX_CODE_CELLS
    assert not [cell.source for cell in code if len(cell.source.splitlines()) > MAX_LINES]


def test_it_has_its_parts_in_their_order(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    places = [next((i for i, head in enumerate(heads) if head.startswith(part)), None) for part in PARTS]
    assert None not in places, dict(zip(PARTS, places, strict=True))
    assert places == sorted(places)
    for promised in ("After this lesson", "You need", "Time"):
        assert f"**{promised}" in cells(path, "markdown")[0].source


def test_its_recap_has_five_lines(path):
    (recap,) = [cell.source for cell in cells(path, "markdown") if cell.source.startswith("## Recap")]
    assert len(re.findall(r"^\d\. ", recap, re.MULTILINE)) == 5


def test_it_is_saved_as_it_ran_from_top_to_bottom(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


def test_its_exercises_are_saved_untouched(path):
    shown = [output.data["text/plain"] for cell in cells(path, "code") for output in cell.outputs if "data" in output]
    assert any(text.startswith("not attempted") for text in shown)
    assert not any(text.startswith(("right", "not yet", "guessed")) for text in shown)


def test_its_outputs_name_no_folder_from_the_root(path):
    texts = [
        text
        for cell in cells(path, "code")
        for output in cell.outputs
        for text in (output.get("text", ""), output.get("data", {}).get("text/plain", ""))
    ]
    assert not [text for text in texts if re.search(r"(?<![\w.:/])/(?:home|root|tmp|Users|usr|opt|work|var)\b", text)]


def test_its_links_lead_somewhere(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert not [link for link in links if not (path.parent / link).exists()]


def test_the_table_of_lessons_has_it(path):
    assert f"]({path.relative_to(FOLDER)})" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_its_code_is_python(path):
    for cell in cells(path, "code"):
        ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE))
