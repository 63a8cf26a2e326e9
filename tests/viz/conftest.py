"""Recordings that several files of figure tests draw; each is made or opened once."""

from __future__ import annotations

import pytest

from learnsgl.trace.reader import Trace
from tests.viz.runs import FIRST_REQUEST, SHARED_PREFIX, scheduled, story_of, told, trace_of


@pytest.fixture(scope="session")
def first_request() -> Trace:
    """One request on the real server."""
    return Trace.open(FIRST_REQUEST)


@pytest.fixture(scope="session")
def shared_prefix() -> Trace:
    """Requests on the real server that share prefixes, with evictions."""
    return Trace.open(SHARED_PREFIX)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The run of two steps that is told event by event."""
    return told(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """256 requests on the real scheduler and a fake executor, with few pages."""
    recorded = scheduled(256, num_pages=600, num_rows=64, max_tokens=12)
    return trace_of(tmp_path_factory.mktemp("many"), story_of(recorded))


@pytest.fixture(scope="session")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A run that was killed after twenty steps."""
    recorded = scheduled(30, num_pages=100, max_steps=20)
    return trace_of(tmp_path_factory.mktemp("cut"), story_of(recorded, ended=False))


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """More steps than a figure has columns: two requests at once, with evictions."""
    recorded = scheduled(32, num_pages=60, num_rows=2, max_tokens=44)
    return trace_of(tmp_path_factory.mktemp("long"), story_of(recorded))
