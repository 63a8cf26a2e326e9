"""What is told of a model: numbers that agree with the engine's, and why one can't be served."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from learnsgl.errors import ModelNotFoundError
from learnsgl.hub import resolve_model
from learnsgl.hub.info import kv_token_bytes, model_info
from learnsgl.hub.listing import describe, supported
from learnsgl.hub.model_files import ModelSource
from learnsgl.models.architectures import ARCHITECTURES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder of someone's own."""
    built = resolve_model("tiny-random", cache=tmp_path / "cache", progress=False).folder
    (built / "learnsgl.json").unlink()
    return built.rename(tmp_path / "my-model")


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_the_architectures_are_those_of_the_registry() -> None:
    from learnsgl.models.registry import MODEL_CLASSES

    assert tuple(ARCHITECTURES) == tuple(sorted(MODEL_CLASSES))
    assert all(name in supported() for name in MODEL_CLASSES)
    assert all(cls.__name__ == name for name, cls in MODEL_CLASSES.items())


def test_kv_bytes_are_those_that_the_engine_allocates(folder: Path) -> None:
    import torch

    from learnsgl.engine.kv_pool import KVPool
    from learnsgl.models.config import load_model_config

    config = load_model_config(folder)
    for name, num_bytes in model_info(str(folder)).kv_token_bytes.items():
        assert num_bytes == KVPool.page_bytes(config, page_size=1, dtype=getattr(torch, name))


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A model\n")
    info = model_info(str(folder), cache=tmp_path / "cache")
    weights = load_file(folder / "model.safetensors")
    assert info.num_parameters == sum(values.size for values in weights.values())
    assert info.weight_bytes["float32"] == sum(values.nbytes for values in weights.values())
    assert (info.name, info.source, info.licence) == ("my-model", ModelSource.FOLDER, "mit")
    assert (info.saved_dtypes, info.context_len, info.why_not) == (("F32",), 2048, None)
    assert all(file.sha256 is None for file in info.files), "only what learnsgl wrote has a known hash"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "'MambaForCausalLM' isn't built; there are: "),
        ({"architectures": None}, "exactly one class name"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised (awq)"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope'"),
    ],
)
def test_why_a_model_is_not_supported(values: dict[str, Any], reason: str, folder: Path) -> None:
    change(folder, **values)
    info = model_info(str(folder))
    assert info.why_not is not None
    assert reason in info.why_not
    assert f"supported     no: {info.why_not}" in describe(info)


def test_a_folder_whose_weights_are_cut_short_is_still_described(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x10\0\0")
    info = model_info(str(folder))
    assert info.num_parameters == 0
    assert "parameters    unknown" in describe(info)


def test_a_gguf_file_is_described_without_converting_it(gguf_file: Path, tmp_path: Path) -> None:
    info = model_info(str(gguf_file), cache=tmp_path)
    assert (info.source, info.architecture, info.why_not) == (ModelSource.GGUF, "LlamaForCausalLM", None)
    converted = resolve_model(str(gguf_file), cache=tmp_path, progress=False)
    weights = [values for path in converted.weights for values in load_file(path).values()]
    assert info.num_parameters == sum(math.prod(values.shape) for values in weights)
    assert set(info.saved_dtypes) > {"F32"}
    assert model_info(converted.folder.name, cache=tmp_path).num_parameters == info.num_parameters


def test_a_file_that_is_no_gguf_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF but not really")
    info = model_info(str(path), cache=tmp_path)
    assert info.why_not is not None
    assert "isn't a GGUF file" in info.why_not
    assert "KV a token    unknown" in describe(info)


def test_what_is_not_here_is_said_so(tmp_path: Path) -> None:
    for name in ("smollm2-135m", "no-such-model", "a/b/c", str(tmp_path / "none"), "x.gguf"):
        with pytest.raises(ModelNotFoundError, match="isn't on this machine"):
            model_info(name, cache=tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        model_info(str(tmp_path), cache=tmp_path)


def test_kv_bytes_without_grouped_heads_or_a_head_dim() -> None:
    config = {"num_attention_heads": 8, "hidden_size": 512, "num_hidden_layers": 2}
    assert kv_token_bytes(config)["float32"] == 2 * 2 * 8 * 64 * 4
    assert kv_token_bytes({"d_model": 512}) == {}


def test_what_a_file_leaves_out_means_what_its_architecture_says() -> None:
    config = {"num_attention_heads": 8, "hidden_size": 512, "num_hidden_layers": 2}
    assert kv_token_bytes({**config, "architectures": ["Qwen3ForCausalLM"]})["float16"] == 2 * 2 * 32 * 128 * 2
    assert kv_token_bytes({**config, "architectures": ["MistralForCausalLM"]})["float16"] == 2 * 2 * 8 * 64 * 2


def test_the_context_is_the_one_that_the_engine_would_serve(folder: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    change(folder, architectures=["Qwen2ForCausalLM"], rope_scaling=yarn)
    assert model_info(str(folder)).context_len == 4096


def test_a_shape_is_described_before_and_after_it_is_made(tmp_path: Path) -> None:
    before = model_info("dummy:qwen3-0.6b", cache=tmp_path)
    assert (before.source, before.num_parameters, before.why_not) == (ModelSource.DUMMY, 596_049_920, None)
    assert (before.kv_token_bytes["bfloat16"], before.context_len, before.files) == (112 * 1024, 40960, ())
    made = resolve_model("dummy:qwen3-0.6b", cache=tmp_path, progress=False).folder
    after = model_info("dummy:qwen3-0.6b", cache=tmp_path)
    assert "tokenizer.json" in [file.name for file in after.files]
    as_listed = model_info(made.name, cache=tmp_path)
    assert (as_listed.source, as_listed.why_not) == (ModelSource.DUMMY, None)
    with pytest.raises(ModelNotFoundError, match=r"there are: dummy:llama-3\.1-8b"):
        model_info("dummy:other", cache=tmp_path)
