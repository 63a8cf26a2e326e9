"""Everything here needs an NVIDIA GPU, and is skipped without one; `make gpu-check` runs it where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.reference import SHAPES, make_model

MakeModel = Callable[[str, torch.dtype], tuple[Path, PreTrainedModel]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where there is no GPU."""
    missing = pytest.mark.skip(reason="needs an NVIDIA GPU, and PyTorch finds none with a working driver")
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(missing)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Gives the folder and the transformers model of one of `SHAPES` in a dtype; the latter stays on the CPU."""
    made: dict[tuple[str, torch.dtype], tuple[Path, PreTrainedModel]] = {}

    def get(shape: str, dtype: torch.dtype) -> tuple[Path, PreTrainedModel]:
        if (shape, dtype) not in made:
            folder = tmp_path_factory.mktemp(shape)
            made[shape, dtype] = folder, make_model(folder, dtype=dtype, **SHAPES[shape])
        return made[shape, dtype]

    return get
