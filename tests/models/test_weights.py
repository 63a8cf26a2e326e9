"""Checkpoints in one file and in several, and what is said of those that don't fit the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learnsgl.errors import ModelNotFoundError, UnsupportedModelError
from learnsgl.models.llama import LlamaForCausalLM
from learnsgl.models.weights import load_weights
from tests.models.small_config import small_config

Tensors = dict[str, torch.Tensor]


def llama(**changes: object) -> LlamaForCausalLM:
    return LlamaForCausalLM(small_config(**changes), num_positions=8, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(place.shape, generator=generator) for name, place in llama().checkpoint_tensors().items()}


def load(folder: Path, model: LlamaForCausalLM | None = None) -> LlamaForCausalLM:
    model = model or llama()
    load_weights(folder, model.checkpoint_tensors(), ignored=model.ignored_tensors)
    return model


def test_fused_weights_hold_their_parts_in_order(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    layer = load(tmp_path).layers[1]
    prefix = "model.layers.1."
    qkv = torch.cat([tensors[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv"])
    assert torch.equal(layer.qkv_proj.weight, qkv)
    gate_up = torch.cat([tensors[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up")])
    assert torch.equal(layer.gate_up_proj.weight, gate_up)
    assert torch.equal(layer.down_proj.weight, tensors[f"{prefix}mlp.down_proj.weight"])


def test_what_lies_beside_the_model_is_not_the_model(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    save_file({"base_model.lora_A.weight": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    save_file({"layers.0.wq.weight": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    for name, place in load(tmp_path).checkpoint_tensors().items():
        assert torch.equal(place, tensors[name]), name


def test_every_place_is_filled_from_several_files(tmp_path: Path, tensors: Tensors) -> None:
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, tmp_path / file)
    save_file({"stray": torch.zeros(1)}, tmp_path / "not-in-the-index.safetensors")
    index = {"weight_map": {name: file for file, held in files.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for name, place in load(tmp_path).checkpoint_tensors().items():
        assert torch.equal(place, tensors[name]), name
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks 1 file \(b.safetensors\) named by"):
        load(tmp_path)


def test_a_tied_head_is_the_embedding(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "model.safetensors")  # holds a head of its own, which a tied model doesn't want
    model = load(tmp_path, llama(tie_word_embeddings=True))
    assert model.lm_head.weight is model.embed_tokens
    assert torch.equal(model.embed_tokens, tensors["model.embed_tokens.weight"])


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelNotFoundError, match=r"holds no \*.safetensors"):
        load(tmp_path)
    save_file({k: v for k, v in tensors.items() if k != "model.norm.weight"}, path)
    with pytest.raises(UnsupportedModelError, match=r"lacks 1 tensor \(model.norm.weight\)"):
        load(tmp_path)
    save_file({**tensors, "model.layers.0.self_attn.q_norm.weight": torch.zeros(4)}, path)
    with pytest.raises(UnsupportedModelError, match=r"holds 1 tensor \(model.layers.0.self_attn.q_norm.weight\)"):
        load(tmp_path)
    save_file({**tensors, "model.norm.weight": torch.zeros(9)}, path)
    with pytest.raises(UnsupportedModelError, match=r"shape \[9\]; config.json asks for \[8\]"):
        load(tmp_path)
    save_file({**tensors, "model.norm.weight": torch.zeros(8, dtype=torch.int8)}, path)
    with pytest.raises(UnsupportedModelError, match=r"is torch.int8; weights must be"):
        load(tmp_path)
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UnsupportedModelError, match="isn't a complete safetensors file"):
        load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weights": 1}', encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="isn't an index of safetensors files"):
        load(tmp_path)


def test_rotary_frequencies_in_old_checkpoints_are_ignored(tmp_path: Path, tensors: Tensors) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file({**tensors, name: torch.zeros(2)}, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path).norm.weight, tensors["model.norm.weight"])
