"""docs/soak.md says what the raw results beside it say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.load.results import summary, table

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["ten_thousand", "random_load", "constrained"])
def test_the_page_holds_the_figures_of_the_raw_results(name: str) -> None:
    page = (DOCS / "soak.md").read_text(encoding="utf-8")
    facts = json.loads((DOCS / "soak" / f"{name}.json").read_text(encoding="utf-8"))
    assert summary(facts) in page
    assert table(facts) in page
