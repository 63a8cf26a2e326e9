"""Shapes without a checkpoint: where their files come from, that they are the shapes they say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from learnsgl.errors import ModelNotFoundError, UnsupportedModelError
from learnsgl.hub import dummy, resolve_model, tiny
from learnsgl.hub.model_files import ModelSource
from learnsgl.models.config import load_model_config, parse_model_config
from learnsgl.models.registry import model_class
from learnsgl.tokenizer.detokenize import IncrementalDetokenizer
from learnsgl.tokenizer.tokenize import load_tokenizer


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    """A folder that holds a config.json alone."""
    folder = tmp_path / "my-shape"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**tiny.CONFIG, "vocab_size": 300}))
    return folder


@pytest.mark.parametrize("name", dummy.PRESETS)
def test_a_preset_has_the_size_of_its_model(name: str) -> None:
    preset = dummy.PRESETS[name]
    config = parse_model_config(preset.config, {}, where=name)
    model = model_class(config.architecture)(config, num_positions=1, dtype=torch.bfloat16, device=torch.device("meta"))
    assert model.weight_bytes() == 2 * preset.num_parameters
    assert sum(place.numel() for place in model.checkpoint_tensors().values()) == preset.num_parameters


def test_a_preset_becomes_a_folder_once(tmp_path: Path) -> None:
    files = resolve_model("dummy:qwen3-0.6b", cache=tmp_path, progress=False)
    assert (files.name, files.source, files.weights) == ("dummy:qwen3-0.6b", ModelSource.DUMMY, ())
    assert (files.architecture, files.context_len, files.eos_ids) == ("Qwen3ForCausalLM", 40960, (151645, 151643))
    assert load_model_config(files.folder).num_layers == 28
    written = (files.folder / "tokenizer.json").stat().st_mtime_ns
    again = resolve_model("qwen3-0.6b", dummy_weights=True, served_name="q", cache=tmp_path, progress=False)
    assert (again.name, again.folder) == ("q", files.folder)
    assert (files.folder / "tokenizer.json").stat().st_mtime_ns == written


def test_a_folder_needs_a_config_and_nothing_else(shape: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json"):
        resolve_model(str(shape), cache=cache, progress=False)
    files = resolve_model(str(shape), dummy_weights=True, cache=cache, progress=False)
    assert (files.name, files.source, files.weights) == ("my-shape", ModelSource.DUMMY, ())
    assert [path.name for path in shape.iterdir()] == ["config.json"], "a folder of someone's own is left as it is"
    (shape / "generation_config.json").write_text('{"eos_token_id": 7}')
    other = resolve_model(str(shape), dummy_weights=True, cache=cache, progress=False)
    assert other.folder != files.folder
    assert other.eos_ids == (7,)


def test_a_tokenizer_of_its_own_is_used(shape: Path, tmp_path: Path) -> None:
    built = resolve_model(str(shape), dummy_weights=True, cache=tmp_path, progress=False).folder
    (shape / "tokenizer.json").write_bytes((built / "tokenizer.json").read_bytes())
    files = resolve_model(str(shape), dummy_weights=True, cache=tmp_path, progress=False)
    assert (files.folder, files.source) == (shape, ModelSource.FOLDER)


def test_bytes_in_and_text_for_every_token_out(shape: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(resolve_model(str(shape), dummy_weights=True, cache=tmp_path, progress=False).folder)
    for text in ("hello t270 world", "né 你好", " t299"):
        assert tokenizer.encode_text(text) == list(text.encode())
        assert tokenizer.decode(tokenizer.encode_text(text)) == text
    assert tokenizer.encode_chat([{"role": "user", "content": "hi"}])[0] == 256
    incremental = IncrementalDetokenizer(tokenizer)
    pieces = [incremental.add(token) for token in (72, 258, 299, 105, 257)]
    assert pieces == ["H", " t258", " t299", "i", ""]


def test_what_has_no_shape_is_refused(shape: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no shape dummy:gpt-5; there are: dummy:llama-3\.1-8b, dummy:qwen3"):
        resolve_model("dummy:gpt-5", cache=tmp_path, progress=False)
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        resolve_model(str(tmp_path), dummy_weights=True, cache=tmp_path, progress=False)
    with pytest.raises(
        ModelNotFoundError, match=r"there is no model 'qwen3-0\.6b'.* no shape \(dummy:llama.*mean dummy:qwen3"
    ):
        resolve_model("qwen3-0.6b", cache=tmp_path, progress=False)
    (shape / "config.json").write_text(json.dumps({**tiny.CONFIG, "vocab_size": 257}))
    with pytest.raises(UnsupportedModelError, match="vocab_size = 257, and a tokenizer of bytes needs 258"):
        resolve_model(str(shape), dummy_weights=True, cache=tmp_path, progress=False)
