"""What the rest of the server knows of a model on disk, read from its folder and checked once.

`resolve.py` makes a `ModelFiles` for every kind of model; the launcher hands it to each process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from learnsgl.errors import ModelNotFoundError, UnsupportedModelError


class ModelSource(StrEnum):
    """Where a model came from."""

    BUILT_IN = "built-in"
    FOLDER = "folder"
    GGUF = "gguf"
    REPOSITORY = "repository"
    DUMMY = "dummy"
    """A shape, whose weights are random."""


@dataclass(frozen=True)
class ModelFiles:
    """A model in Hugging Face's layout: `config.json`, `*.safetensors`, `tokenizer.json`.

    Attributes:
        name: what clients call the model.
        folder: where its files lie.
        source: where it came from.
        architecture: class name in `config.json`, such as `LlamaForCausalLM`.
        weights: the safetensors files, sorted by name; none where random weights take their place.
        context_len: tokens that the model's positions allow; `None` where the configuration doesn't say.
        eos_ids: tokens that end a sequence, from `generation_config.json`, else from `config.json`.
    """

    name: str
    folder: Path
    source: ModelSource
    architecture: str
    weights: tuple[Path, ...]
    context_len: int | None
    eos_ids: tuple[int, ...]


def read_model_files(folder: Path, name: str, source: ModelSource, *, needs_weights: bool = True) -> ModelFiles:
    """Check that `folder` holds a model that can be served, and describe it.

    Args:
        folder: in Hugging Face's layout.
        name: what clients call the model.
        source: where it came from.
        needs_weights: whether its weights must be there; with random ones they needn't.

    Raises:
        ModelNotFoundError: a file that every model needs is missing.
        UnsupportedModelError: the files are there, but of a kind that isn't supported.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelNotFoundError(
            f"{folder} holds no config.json, so it isn't a model folder in Hugging Face's layout; give the folder "
            "that holds config.json, tokenizer.json and *.safetensors"
        )
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or not isinstance(architectures[0], str):
        raise UnsupportedModelError(
            f"{folder / 'config.json'} has architectures = {architectures!r}; exactly one class name is needed there, "
            "such as LlamaForCausalLM"
        )
    _refuse_quantised(folder, config)
    _check_tokenizer(folder)
    generation = read_json(folder / "generation_config.json") or {}
    context_len = config.get("max_position_embeddings")
    return ModelFiles(
        name=name,
        folder=folder,
        source=source,
        architecture=architectures[0],
        weights=_weight_files(folder) if needs_weights else (),
        context_len=context_len if isinstance(context_len, int) else None,
        eos_ids=_eos_ids(generation) or _eos_ids(config),
    )


def read_json(path: Path) -> Any:
    """The JSON value in a file, or `None` when there is no such file.

    Raises:
        UnsupportedModelError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UnsupportedModelError(f"{path} isn't valid JSON ({error}); fetch the model again") from error


def _refuse_quantised(folder: Path, config: dict[str, Any]) -> None:
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
        raise UnsupportedModelError(
            f"the weights in {folder} are quantised ({method}); use the float32, float16 or bfloat16 version of the "
            "model, or a .gguf file of it"
        )


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise UnsupportedModelError(
            f"{folder} holds no tokenizer.json; models that bring only a slow tokenizer (tokenizer.model, vocab.json) "
            "must be converted with transformers first"
        )


def _weight_files(folder: Path) -> tuple[Path, ...]:
    index = read_json(folder / "model.safetensors.index.json")
    if isinstance(index, dict):
        wanted = sorted(set(index.get("weight_map", {}).values()))
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            raise ModelNotFoundError(
                f"{folder} is incomplete: {len(missing)} of {len(wanted)} weight files are missing, the first is "
                f"{missing[0]}; fetch the model again"
            )
        return tuple(folder / name for name in wanted)
    found = tuple(sorted(folder.glob("*.safetensors")))
    if not found:
        other = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".gguf"})
        held = f", only {', '.join(other[:3])}" if other else ""
        raise UnsupportedModelError(
            f"{folder} holds no *.safetensors{held}; weights are read from safetensors, or from a .gguf file that is "
            "given by its own path"
        )
    return found


def _eos_ids(config: dict[str, Any]) -> tuple[int, ...]:
    ids = config.get("eos_token_id")
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (int(ids),)
