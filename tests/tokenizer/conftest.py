"""The tokenizer of tiny-random, which is made without any download."""

from __future__ import annotations

from pathlib import Path

import pytest

from learnsgl.hub import resolve_model
from learnsgl.tokenizer.tokenize import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resolve_model("tiny-random", cache=tmp_path_factory.mktemp("cache"), progress=False).folder


@pytest.fixture(scope="session")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(tiny_folder)
