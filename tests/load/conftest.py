from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.conftest import home, start

__all__ = ["home", "start"]

OPTION = "--soak-results"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, metavar="FOLDER", help="where `make soak` writes what it has measured")


@pytest.fixture
def soak_folder(request: pytest.FixtureRequest) -> Path | None:
    """Where what was measured goes; without the option nowhere."""
    folder: Path | None = request.config.getoption(OPTION, None)
    return folder
