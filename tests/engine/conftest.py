"""Models that several tests share, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.reference import SHAPES, make_model

MakeModel = Callable[[str], tuple[Path, PreTrainedModel]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Gives the folder and the transformers model of one of `SHAPES`."""
    made: dict[str, tuple[Path, PreTrainedModel]] = {}

    def get(shape: str) -> tuple[Path, PreTrainedModel]:
        if shape not in made:
            folder = tmp_path_factory.mktemp(shape)
            made[shape] = folder, make_model(folder, **SHAPES[shape])
        return made[shape]

    return get
