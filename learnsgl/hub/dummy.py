"""Models that have a shape and no checkpoint: `--model dummy:NAME`, and folders served with `--dummy-weights`.

`resolve.py` calls it. The engine fills such a model with random weights; here it gets its config.json and, where it
has no tokenizer of its own, one of bytes, so that texts can be sent and every token that comes back gives text.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnsgl.errors import ModelNotFoundError, UnsupportedModelError
from learnsgl.hub.byte_level import CHATML_TEMPLATE, byte_level_tokenizer, byte_symbols, split_by, write_json
from learnsgl.hub.model_files import ModelFiles, ModelSource, read_json, read_model_files
from learnsgl.hub.store import build_once, models_folder

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>")
"""Tokens 256 and 257 of the byte tokenizer, after the 256 bytes."""
LEAST_VOCAB = 256 + len(SPECIAL_TOKENS)


@dataclass(frozen=True)
class Preset:
    """The shape of a well-known model.

    Attributes:
        config: its config.json.
        num_parameters: numbers in its weights, those of a tied output layer once.
    """

    config: Mapping[str, Any]
    num_parameters: int


PRESETS: Mapping[str, Preset] = {
    "llama-3.1-8b": Preset(
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
            "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
            "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "dtype": "bfloat16",
        },
        num_parameters=8_030_261_248,
    ),
    "qwen3-0.6b": Preset(
        {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024,
            "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
            "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0, "attention_bias": False, "use_sliding_window": False, "tie_word_embeddings": True,
            "bos_token_id": 151643, "eos_token_id": [151645, 151643], "dtype": "bfloat16",
        },
        num_parameters=596_049_920,
    ),
}  # fmt: skip
"""By the name behind `dummy:`."""


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ModelNotFoundError: there is no such preset; those there are, are named.
    """
    if name not in PRESETS:
        raise ModelNotFoundError(
            f"there is no shape dummy:{name}; there are: {', '.join(f'dummy:{known}' for known in PRESETS)}. For any "
            "other, write its config.json into a folder and give --model FOLDER --dummy-weights"
        )
    return PRESETS[name]


def preset_folder(name: str, cache: Path) -> Path:
    """Where the preset's files are, or will be; another configuration has another folder."""
    config = find_preset(name).config
    return models_folder(cache) / f"dummy-{name}-{_digest(json.dumps(config).encode())}"


def resolve_preset(name: str, served_name: str | None, cache: Path, progress: bool) -> ModelFiles:
    """A folder with the preset's configuration and a byte tokenizer.

    Raises:
        ModelNotFoundError: see `find_preset`.
        FolderError: the cache folder can't be written.
    """
    config, folder = find_preset(name).config, preset_folder(name, cache)
    build_once(folder, {"dummy": name}, lambda fresh: _build(fresh, config), progress=progress)
    return read_model_files(folder, served_name or f"dummy:{name}", ModelSource.DUMMY, needs_weights=False)


def resolve_shape(folder: Path, served_name: str | None, cache: Path, progress: bool) -> ModelFiles:
    """A folder of someone's own that has a config.json, and perhaps nothing else.

    With a `tokenizer.json` it is taken as it is. Without one, its configuration is copied into the cache folder and
    gets a byte tokenizer there.

    Raises:
        ModelNotFoundError: the folder holds no config.json.
        UnsupportedModelError: it can't be served, or its vocabulary is too small for a byte tokenizer.
        FolderError: the cache folder can't be written.
    """
    name = served_name or folder.name
    if (folder / "tokenizer.json").is_file() or not isinstance(config := read_json(folder / "config.json"), dict):
        return read_model_files(folder, name, ModelSource.FOLDER, needs_weights=False)
    files = [folder / file for file in ("config.json", "generation_config.json") if (folder / file).is_file()]
    built = models_folder(cache) / f"dummy-{folder.name}-{_digest(*(file.read_bytes() for file in files))}"

    def build(fresh: Path) -> None:
        _build(fresh, config)
        for file in files:
            shutil.copyfile(file, fresh / file.name)

    build_once(built, {"dummy": folder.name}, build, progress=progress)
    return read_model_files(built, name, ModelSource.DUMMY, needs_weights=False)


def _build(folder: Path, config: Mapping[str, Any]) -> None:
    write_json(folder / "config.json", dict(config))
    vocab_size, context_len = config.get("vocab_size"), config.get("max_position_embeddings")
    if not isinstance(vocab_size, int) or vocab_size < LEAST_VOCAB:
        raise UnsupportedModelError(
            f"config.json has vocab_size = {vocab_size!r}, and a tokenizer of bytes needs {LEAST_VOCAB} tokens or "
            "more; raise it, or put the model's own tokenizer.json beside it"
        )
    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    vocab |= {token: 256 + index for index, token in enumerate(SPECIAL_TOKENS)}
    # all other tokens are words that no text becomes: what a random model chooses is seen, and streamed, as text
    vocab |= {f"Ġt{token}": token for token in range(LEAST_VOCAB, vocab_size)}
    tokenizer = byte_level_tokenizer(vocab, [], split_by(), special_tokens=SPECIAL_TOKENS)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": context_len,
            "chat_template": CHATML_TEMPLATE,
        },
    )


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:8]
