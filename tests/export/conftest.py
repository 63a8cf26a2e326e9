"""Every sort of recording, opened; made once, since exports only read it."""

from __future__ import annotations

import pytest

from learnsgl.trace.reader import Trace
from tests.export.recordings import SORTS


@pytest.fixture(scope="session", params=SORTS)
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return Trace.open(SORTS[request.param](tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return Trace.open(SORTS["whole"](tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return Trace.open(SORTS["tokens"](tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="session")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return Trace.open(SORTS["scheduled"](tmp_path_factory.mktemp("runs")))
