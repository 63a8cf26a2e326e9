from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learnsgl.llm import LLM
from tests.llm.echo import ECHO

Maker = Callable[..., LLM]


@pytest.fixture(scope="session")
def home_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", autouse=True)
def home(home_folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """A models' cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEARNSGL_HOME", str(home_folder))
        yield patch


@pytest.fixture
def own_home(home: pytest.MonkeyPatch, home_folder: Path) -> Iterator[None]:
    """The user's own cache again, in which the built-in model lies."""
    home.undo()
    yield
    home.setenv("LEARNSGL_HOME", str(home_folder))


@pytest.fixture
def make() -> Iterator[Maker]:
    """Makes LLMs whose model repeats the prompt, and closes them."""
    made: list[LLM] = []

    def make(**options: object) -> LLM:
        made.append(LLM("tiny-random", **({"executor_factory": ECHO} | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for llm in made:
        llm.close()
