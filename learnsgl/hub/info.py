"""What `learnsgl model info` tells of a model: its sizes, its files, the memory it takes, and whether it is supported.

Everything is read from the model's own files, without loading a weight and without the network.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnsgl.config import DUMMY_PREFIX, cache_folder
from learnsgl.errors import LearnsglError, ModelNotFoundError, UnsupportedModelError
from learnsgl.hub import dummy, tiny
from learnsgl.hub.model_files import ModelSource, read_json, read_model_files
from learnsgl.hub.resolve import BUILT_IN_NAMES, REPOSITORY_ID, WHEEL_MODELS
from learnsgl.hub.store import models_folder, read_manifest
from learnsgl.models.architectures import ARCHITECTURES
from learnsgl.models.config import parse_model_config

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""What the engine can hold weights and KV cache in."""
_DUMMY_LICENCE = "none needed: random weights, made on this machine"
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class FileInfo:
    """One file of a model; `sha256` where learnsgl wrote the file and knows it."""

    name: str
    num_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class ModelInfo:
    """A model on this machine.

    Attributes:
        path: its folder, or its `.gguf` file.
        num_parameters: numbers in its weights; 0 where they can't be read.
        saved_dtypes: what the weights are saved in, the most common first.
        context_len: tokens that its positions allow; `None` where it doesn't say.
        weight_bytes: memory that its weights take, by the dtype to serve in.
        kv_token_bytes: KV cache that one token takes, by dtype; empty where the sizes aren't known.
        licence: `None` where the files don't say.
        why_not: why it can't be served; `None` where it can.
    """

    name: str
    path: Path
    source: ModelSource
    architecture: str
    num_parameters: int
    saved_dtypes: tuple[str, ...]
    context_len: int | None
    weight_bytes: Mapping[str, int]
    kv_token_bytes: Mapping[str, int]
    licence: str | None
    files: tuple[FileInfo, ...]
    why_not: str | None


def model_info(name: str, *, cache: Path | None = None) -> ModelInfo:
    """Describe a model that is on this machine.

    Args:
        name: as `learnsgl model ls` lists it, or a folder, a `.gguf` file, a repository in Hugging Face's cache, or a
            shape `dummy:NAME`, for which nothing has to be here.
        cache: the cache folder; by default `config.cache_folder()`.

    Raises:
        ModelNotFoundError: it isn't on this machine; the message says how to get it.
    """
    cache = cache or cache_folder()
    if name.startswith(DUMMY_PREFIX):
        return _preset_info(name, cache)
    pulled = models_folder(cache) / name
    if Path(name).name == name and (pulled / "config.json").is_file():
        manifest = read_manifest(pulled) or {"origin": {}, "files": {}}
        source = ModelSource.BUILT_IN if name in BUILT_IN_NAMES else ModelSource.GGUF
        source = ModelSource.DUMMY if "dummy" in manifest["origin"] else source
        return _folder_info(name, pulled, source, manifest["files"])
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder_info(path.resolve().name, path.resolve(), ModelSource.FOLDER, {})
    if path.suffix == ".gguf" and path.is_file():
        return _gguf_info(path)
    if REPOSITORY_ID.fullmatch(name) and path.suffix != ".gguf":
        from learnsgl.hub.repository import local_copy

        if (folder := local_copy(name)) is not None:
            return _folder_info(name, folder, ModelSource.REPOSITORY, {})
    raise ModelNotFoundError(
        f"{name!r} isn't on this machine: it is no model in {models_folder(cache)}, no folder, no .gguf file and no "
        "repository in Hugging Face's cache. `learnsgl model ls` lists what is here, `learnsgl model pull` fetches more"
    )


def _folder_info(name: str, folder: Path, source: ModelSource, known: Mapping[str, Any]) -> ModelInfo:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelNotFoundError(f"{folder} holds no config.json, so it isn't a model folder in Hugging Face's layout")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    shapes, dtypes = _read_headers([path for path in paths if path.suffix == ".safetensors"])
    files = (FileInfo(path.name, path.stat().st_size, known.get(path.name, {}).get("sha256")) for path in paths)
    why_not = None
    try:
        read_model_files(folder, name, source, needs_weights=source is not ModelSource.DUMMY)
    except LearnsglError as error:
        why_not = str(error)
    licence = _DUMMY_LICENCE if source is ModelSource.DUMMY else _licence(name, folder)
    return _describe(name, folder, source, config, _count(shapes), dtypes, licence, tuple(files), why_not)


def _preset_info(name: str, cache: Path) -> ModelInfo:
    preset_name = name.removeprefix(DUMMY_PREFIX)
    preset, folder = dummy.find_preset(preset_name), dummy.preset_folder(preset_name, cache)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    files = tuple(FileInfo(path.name, path.stat().st_size) for path in paths)
    return _describe(
        name, folder, ModelSource.DUMMY, preset.config, preset.num_parameters, (), _DUMMY_LICENCE, files, None
    )


def _gguf_info(path: Path) -> ModelInfo:
    from learnsgl.hub.gguf import GgufFile

    file = FileInfo(path.name, path.stat().st_size)
    try:
        gguf = GgufFile(path)
    except UnsupportedModelError as error:
        return _describe(path.stem, path, ModelSource.GGUF, {}, 0, (), None, (file,), str(error))
    licence = gguf.get("general.license")
    return _describe(
        path.stem, path, ModelSource.GGUF, gguf.config, _count(gguf.shapes()), gguf.saved_dtypes(),
        None if licence is None else str(licence), (file,), None,
    )  # fmt: skip


def _describe(
    name: str,
    path: Path,
    source: ModelSource,
    config: Mapping[str, Any],
    num_parameters: int,
    dtypes: tuple[str, ...],
    licence: str | None,
    files: tuple[FileInfo, ...],
    why_not: str | None,
) -> ModelInfo:
    context_len = config.get("max_position_embeddings")
    try:  # as the engine would
        where = str(path / "config.json" if path.is_dir() else path)
        context_len = parse_model_config(config, {}, where=where).max_position_embeddings
    except LearnsglError as error:
        why_not = why_not or str(error)
    return ModelInfo(
        name=name, path=path, source=source, architecture=", ".join(config.get("architectures") or ["unknown"]),
        num_parameters=num_parameters, saved_dtypes=dtypes,
        context_len=context_len if isinstance(context_len, int) else None,
        weight_bytes={dtype: size * num_parameters for dtype, size in DTYPE_BYTES.items()},
        kv_token_bytes=kv_token_bytes(config), licence=licence, files=files, why_not=why_not,
    )  # fmt: skip


def kv_token_bytes(config: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of KV cache that one token takes, by dtype: a key and a value, in every layer, for every KV head."""
    name = (config.get("architectures") or [None])[0]
    config = {**(ARCHITECTURES[name].defaults if name in ARCHITECTURES else {}), **config}
    try:
        num_heads = int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // num_heads)
        num_kv_heads = int(config.get("num_key_value_heads") or num_heads)
        numbers = 2 * int(config["num_hidden_layers"]) * num_kv_heads * head_dim
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # not a decoder as we know it
        return {}
    return {dtype: size * numbers for dtype, size in DTYPE_BYTES.items()}


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _read_headers(paths: list[Path]) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Shape of each tensor, and the dtypes, the most common first; a file that can't be read counts for nothing."""
    shapes: dict[str, tuple[int, ...]] = {}
    numbers: Counter[str] = Counter()
    for path in paths:
        for name, tensor in _read_header(path).items():
            if name != "__metadata__":
                shapes[name] = tuple(tensor["shape"])
                numbers[tensor["dtype"]] += math.prod(tensor["shape"])
    return shapes, tuple(dtype for dtype, _ in numbers.most_common())


def _read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file; see `safetensors_file.py` for the format."""
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _MAX_HEADER_BYTES else {}
        except (struct.error, ValueError):  # cut short, or something else: then nothing is known of its weights
            return {}
    return header if isinstance(header, dict) else {}


def _licence(name: str, folder: Path) -> str | None:
    """The licence of a built-in model, or what the model card's front matter names."""
    if name in WHEEL_MODELS:
        return WHEEL_MODELS[name].licence
    if name == tiny.NAME:
        return _DUMMY_LICENCE
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = card.read_text(encoding="utf-8", errors="replace").split("---")[1:2]
    lines = front[0].splitlines() if front else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), None)
