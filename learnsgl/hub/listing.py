"""The models in the cache folder as a list, and one model in words; `commands.py` prints both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from learnsgl.config import DUMMY_PREFIX
from learnsgl.hub.dummy import PRESETS
from learnsgl.hub.info import ModelInfo
from learnsgl.hub.resolve import BUILT_IN_NAMES, WHEEL_MODELS
from learnsgl.hub.store import MANIFEST, downloads_folder, models_folder, read_manifest
from learnsgl.models.architectures import ARCHITECTURES


@dataclass(frozen=True)
class Entry:
    """A line of the list.

    Attributes:
        num_bytes: on this machine's disk.
        state: `complete`, `in part` (a download that goes on), `broken` (is made again), `foreign`, or `not here`.
        about: where it lies, or how to get it.
    """

    name: str
    num_bytes: int
    state: str
    about: str


def list_models(cache: Path) -> list[Entry]:
    """What is in the cache folder, then the built-in models that aren't."""
    entries = list(_models(cache))
    names = {entry.name for entry in entries}
    entries += [entry for entry in _downloads(cache) if entry.name not in names]
    names = {entry.name for entry in entries}
    for name in BUILT_IN_NAMES:
        if name not in names:
            entries.append(Entry(name, 0, "not here", f"learnsgl model pull {name}: {_summary(name)}"))
    return entries


def _models(cache: Path) -> Iterator[Entry]:
    for folder in sorted(path for path in models_folder(cache).glob("[!.]*") if path.is_dir()):
        if read_manifest(folder) is not None:
            yield Entry(folder.name, _bytes(folder), "complete", str(folder))
        elif (folder / MANIFEST).is_file():
            yield Entry(folder.name, _bytes(folder), "broken", f"{folder}; it is made anew when it is next needed")
        else:
            yield Entry(folder.name, _bytes(folder), "foreign", f"{folder} wasn't made by learnsgl")


def _downloads(cache: Path) -> Iterator[Entry]:
    for folder in sorted(path for path in downloads_folder(cache).glob("[!.]*") if path.is_dir()):
        num_bytes = _bytes(folder)
        if num_bytes:
            yield Entry(folder.name, num_bytes, "in part", f"learnsgl model pull {folder.name} goes on from there")


def _bytes(folder: Path) -> int:
    """Bytes of the files in a folder, but for the notes beside downloads."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".part.json"))
    return sum(path.stat().st_size for path in files)


def _summary(name: str) -> str:
    return WHEEL_MODELS[name].summary if name in WHEEL_MODELS else "random weights, made in a moment, for tests"


def supported() -> str:
    """What the engine can serve, for people."""
    lines = ["supported: weights in safetensors (float32, bfloat16, float16) or in .gguf files, of"]
    for name, architecture in ARCHITECTURES.items():
        files = "safetensors, .gguf" if architecture.gguf_name else "safetensors"
        lines.append(f"  {name:20}  {architecture.family} ({files})")
    shapes = ", ".join(DUMMY_PREFIX + name for name in PRESETS)
    lines.append(f"and, to measure speed, random weights: {shapes}, or any config.json with --dummy-weights.")
    return "\n".join([*lines, "`learnsgl model info NAME` says why a model isn't supported"])


def describe(info: ModelInfo) -> str:
    """A model in words and numbers, one fact a line."""
    facts = {
        "name": info.name,
        "where": f"{info.path} ({info.source.value})",
        "architecture": info.architecture,
        "supported": "yes" if info.why_not is None else f"no: {info.why_not}",
        "parameters": f"{info.num_parameters:,}" if info.num_parameters else "unknown",
        "saved as": ", ".join(info.saved_dtypes) or "unknown",
        "context": f"{info.context_len:,} tokens" if info.context_len else "unknown",
        "weights": _by_dtype(info.weight_bytes, 1e6, "MB") if info.num_parameters else "unknown",
        "KV a token": _by_dtype(info.kv_token_bytes, 1, "bytes") or "unknown",
        "licence": info.licence or "the files don't say",
        "summary": _summary(info.name) if info.name in BUILT_IN_NAMES else "",
    }
    lines = [f"{name:13} {text}" for name, text in facts.items() if text]
    lines += [f"{'file':13} {file.name:32} {file.num_bytes:>13,}  {file.sha256 or ''}".rstrip() for file in info.files]
    return "\n".join(lines)


def _by_dtype(numbers: Mapping[str, int], unit: float, name: str) -> str:
    digits = 0 if unit == 1 else 1
    return ", ".join(f"{number / unit:,.{digits}f} {name} in {dtype}" for dtype, number in numbers.items())
