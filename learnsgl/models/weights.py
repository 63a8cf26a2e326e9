"""Reads the tensors of a checkpoint (safetensors, one file or several) into the places that a model has for them.

A model offers its places by the checkpoint's names: each is a tensor, often a slice of a fused weight, so that
fusing is nothing more than where a tensor is copied to. `Engine` calls `load_weights` once, when it starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from learnsgl.errors import ModelNotFoundError, UnsupportedModelError

_NAMES_SHOWN = 5


def load_weights(folder: Path, places: Mapping[str, torch.Tensor], *, ignored: tuple[str, ...] = ()) -> None:
    """Copy every tensor of the checkpoint to its place, converting the dtype where it differs.

    Args:
        folder: holds `*.safetensors`, with or without `model.safetensors.index.json`.
        places: destination by the tensor's name in the checkpoint; its shape must be the same.
        ignored: endings of names that a checkpoint may hold and the model doesn't need.

    Raises:
        ModelNotFoundError: no safetensors file, or one that the index names isn't there.
        UnsupportedModelError: a file is broken, or tensors are missing, unexpected, of another shape or not floats.
    """
    waiting = dict(places)
    unexpected: list[str] = []
    for path in checkpoint_files(folder):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - the handle isn't a mapping
                    place = waiting.pop(name, None)
                    if place is not None:
                        _copy(name, file.get_tensor(name), place, path)
                    elif not name.endswith(ignored):
                        unexpected.append(name)
        except SafetensorError as error:
            raise UnsupportedModelError(
                f"{path} isn't a complete safetensors file ({error}); download it again"
            ) from error
    if waiting:
        raise UnsupportedModelError(f"{folder} lacks {_listed(list(waiting))}; the checkpoint isn't complete")
    if unexpected:
        raise UnsupportedModelError(
            f"{folder} holds {_listed(unexpected)} that this architecture has no place for; "
            "its config.json and its weights don't belong together"
        )


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those that its index names, or model.safetensors, or all there are, by name.

    What else may lie there isn't the model: an adapter of a fine-tuning, or the same weights under other names, as in
    Mistral's repositories.

    Raises:
        ModelNotFoundError: there is none, or one of the index is missing.
        UnsupportedModelError: the index can't be read.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        whole = folder / "model.safetensors"
        files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelNotFoundError(f"{folder} holds no *.safetensors; other formats of weights aren't read")
        return files
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [folder / name for name in sorted(set(weight_map.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(f"{index} isn't an index of safetensors files: {error!r}") from error
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelNotFoundError(f"{folder} lacks {_listed(missing, noun='file')} named by {index.name}")
    return files


def _copy(name: str, tensor: torch.Tensor, place: torch.Tensor, path: Path) -> None:
    if tensor.shape != place.shape:
        raise UnsupportedModelError(
            f"{name} in {path} has shape {list(tensor.shape)}; config.json asks for {list(place.shape)}"
        )
    if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
        raise UnsupportedModelError(
            f"{name} in {path} is {tensor.dtype}; weights must be float32, bfloat16 or float16, not quantised"
        )
    place.copy_(tensor)


def _listed(names: list[str], noun: str = "tensor") -> str:
    """`2 tensors (a, b)`, cut short where there are many."""
    shown = ", ".join(sorted(names)[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"
