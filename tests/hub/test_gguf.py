"""GGUF files become Hugging Face folders: weights and tokens as transformers reads them from the same file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from learnsgl.errors import UnsupportedModelError
from learnsgl.hub.convert import convert_gguf
from learnsgl.hub.gguf import GgufFile
from learnsgl.hub.gguf_rope import llama3_divisors
from learnsgl.models.config import load_model_config
from learnsgl.tokenizer.tokenize import load_tokenizer
from tests.hub.gguf_builder import vocabulary, write_gguf

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def converted(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(gguf_file, folder, progress=False)
    return folder


def test_weights_equal_those_that_transformers_reads(gguf_file: Path, converted: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = LlamaConfig.from_pretrained(converted)
    theirs = load_gguf_checkpoint(gguf_file, return_tensors=True, model_to_load=LlamaForCausalLM(config))["tensors"]
    ours = load_file(converted / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert np.array_equal(values, theirs[name].numpy()), name


@pytest.mark.parametrize("arch", ["qwen2", "qwen3"])
def test_a_qwen_is_the_model_that_transformers_reads(arch: str, tmp_path: Path) -> None:
    """All its weights, neither q nor k in another order, and every size: transformers loads it without a word."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path, folder = tmp_path / "qwen.gguf", tmp_path / "converted"
    write_gguf(path, arch=arch, metadata={"tokenizer.ggml.pre": "qwen2", f"{arch}.attention.key_length": 16})
    folder.mkdir()
    convert_gguf(path, folder, progress=False)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    theirs = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)
    ours = load_file(folder / "model.safetensors")
    assert ours.keys() == theirs["tensors"].keys() == model.state_dict().keys() - {"lm_head.weight"}
    for name, values in ours.items():
        assert np.array_equal(values, theirs["tensors"][name].numpy()), name
        assert values.shape == model.state_dict()[name].shape, name
    for key, value in theirs["config"].items():
        if hasattr(model.config, key) and key not in ("eos_token_id", "pad_token_id", "bos_token_id", "architectures"):
            assert getattr(model.config, key) == pytest.approx(value), key
    assert load_model_config(folder).architecture == type(model).__name__


def test_scaled_positions_of_a_qwen(tmp_path: Path) -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_context_length": 128}
    metadata = {f"qwen3.rope.scaling.{key}": value for key, value in yarn.items()}
    write_gguf(tmp_path / "m.gguf", arch="qwen3", metadata=metadata)
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert GgufFile(tmp_path / "m.gguf").config["rope_scaling"] == scaling
    write_gguf(tmp_path / "m.gguf", metadata={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5})
    assert GgufFile(tmp_path / "m.gguf").config["rope_scaling"] == {"rope_type": "linear", "factor": 2.5}


def test_config_names_every_size(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["vocab_size"], config["head_dim"], config["num_key_value_heads"]) == (len(vocabulary()), 16, 2)
    assert (config["rope_theta"], config["rms_norm_eps"], config["max_position_embeddings"]) == (50000.0, 1e-5, 512)
    assert config["tie_word_embeddings"] is True
    assert config["eos_token_id"] == [2]


def test_own_output_layer_is_kept(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tied=False)
    gguf = GgufFile(tmp_path / "m.gguf")
    assert gguf.config["tie_word_embeddings"] is False
    assert "lm_head.weight" in gguf.shapes()


@pytest.mark.parametrize(
    "text",
    ["hello world", "héllo", "  two  spaces\n\n\ttab", "你好 👩‍👩‍👧", "<|im_start|>hello<|im_end|>", "it's", "x=1"],
)
def test_tokens_equal_those_that_transformers_reads(gguf_file: Path, converted: Path, text: str) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    ours = load_tokenizer(converted)
    assert ours.encode_text(text) == theirs(text)["input_ids"]
    assert ours.decode(ours.encode_text(text)) == text


def test_digits_stand_alone_as_the_model_was_trained(converted: Path) -> None:
    # transformers 5.23 has no entry for "smollm" and cuts like GPT-2, so there "123" would be one token of this file
    tokens = vocabulary()
    assert [tokens[index] for index in load_tokenizer(converted).encode_text("123")] == ["1", "2", "3"]


def test_gpt2_splitting_keeps_numbers_together(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.pre": "gpt-2"})
    convert_gguf(tmp_path / "m.gguf", tmp_path, progress=False)
    assert load_tokenizer(tmp_path).encode_text("123") == [vocabulary().index("123")]


def test_bos_is_added_to_text_where_the_file_says_so(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.add_bos_token": True})
    convert_gguf(tmp_path / "m.gguf", tmp_path, progress=False)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode_text("hello") == [1, vocabulary().index("hello")]
    assert tokenizer.encode_chat([{"role": "user", "content": "hello"}])[0] == 1  # <|im_start|>, from the template
    assert tokenizer.encode_chat([{"role": "user", "content": "hello"}])[1] != 1


def test_llama3_rope_scaling_is_recognised_from_its_divisors(tmp_path: Path) -> None:
    scaling = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    divisors = llama3_divisors(8, 50000.0, {"factor": 32.0, **scaling})
    assert (divisors[0], divisors[-1]) == (1.0, 32.0)
    write_gguf(tmp_path / "m.gguf", extra_tensors={"rope_freqs.weight": divisors})
    assert GgufFile(tmp_path / "m.gguf").config["rope_scaling"] == {"rope_type": "llama3", "factor": 32.0, **scaling}


def test_our_llama3_divisors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters=rope)
    inv_freq, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** -(np.arange(64) / 64)
    assert np.allclose(plain / llama3_divisors(64, 500000.0, rope), inv_freq.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arch": "gemma"}, ["'gemma'", "llama, qwen2, qwen3"]),
        ({"metadata": {"tokenizer.ggml.pre": "klingon"}}, ["'klingon'", "smollm"]),
        ({"metadata": {"tokenizer.ggml.model": "llama"}}, ["'llama'", "byte-level BPE"]),
        ({"metadata": {"llama.rope.scaling.type": "longrope"}}, ["longrope", "YaRN"]),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, ["llama.rope.scaling.factor"]),
        ({"metadata": {"llama.context_length": None}}, ["llama.context_length"]),
        ({"extra_tensors": {"blk.0.attn_q.bias": np.zeros(64, np.float32)}}, ["blk.0.attn_q.bias"]),
        ({"extra_tensors": {"blk.0.attn_q_norm.weight": np.zeros(16, np.float32)}}, ["attn_q_norm", "llama model"]),
        ({"extra_tensors": {"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}}, ["rotary", "Llama 3"]),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, change: dict[str, object], words: list[str]) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, **change)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError) as caught:
        convert_gguf(path, tmp_path, progress=False)
    assert all(word in str(caught.value) for word in [*words, str(path)])


@pytest.mark.parametrize("keep", [0, 3, 100, 20_000])
def test_a_cut_or_foreign_file_is_refused(gguf_file: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_file.read_bytes()[:keep])
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        convert_gguf(path, tmp_path, progress=False)
