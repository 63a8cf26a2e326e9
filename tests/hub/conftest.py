"""A small GGUF file, and the wheel that holds it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from learnsgl.hub.builtin import WheelModel
from tests.hub.gguf_builder import FakeWheel, write_gguf


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="session")
def fake_wheel(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeWheel:
    path = tmp_path_factory.mktemp("wheel") / "small_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf_file, "small_model/small.gguf")
    model = WheelModel(
        name="small", requirement="small-model==1.0", wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        gguf="small_model/small.gguf", gguf_sha256=hashlib.sha256(gguf_file.read_bytes()).hexdigest(), summary="",
    )  # fmt: skip
    return FakeWheel(path, model)
