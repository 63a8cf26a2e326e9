from pathlib import Path

import pytest

from learnsgl.trace.reader import Trace
from learnsgl.trace.show import to_json

RECORDING = Path(__file__).parents[2] / "traces" / "first_request.trace.zip"


@pytest.fixture(scope="session")
def recorded():
    return Trace.open(RECORDING)


@pytest.fixture
def events(recorded):
    """The recording's events as `learnsgl trace cat` prints them."""
    return [to_json(entry) for entry in recorded.events()]
