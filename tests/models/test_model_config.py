"""config.json in all its forms, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, Qwen3Config

from learnsgl.errors import ModelNotFoundError, UnsupportedModelError
from learnsgl.models.config import load_model_config, parse_model_config
from learnsgl.models.registry import model_class
from learnsgl.models.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling
from tests.models.small_config import RAW, small_config

LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def write(folder: Path, config: Any, generation: Any = None) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return folder


def test_both_forms_of_the_file_mean_the_same() -> None:
    old = small_config(rope_theta=500000.0, rope_scaling=LLAMA3, torch_dtype="bfloat16")
    new = small_config(rope_theta=None, rope_parameters={"rope_theta": 500000.0, **LLAMA3}, dtype="bfloat16")
    oldest = small_config(
        rope_theta=500000.0, rope_scaling={**LLAMA3, "type": "llama3", "rope_type": None}, torch_dtype="bfloat16"
    )
    assert old == new == oldest
    assert old.rope_theta == 500000.0
    assert old.rope_scaling == Llama3Scaling(32.0, 1.0, 4.0, 8192)
    assert old.dtype == "bfloat16"


def test_what_transformers_writes_is_read(tmp_path: Path) -> None:
    LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=99, hidden_size=64, num_attention_heads=4, head_dim=24,
        num_key_value_heads=2, tie_word_embeddings=True, attention_bias=True, rope_parameters={"rope_theta": 1e6,
        **LLAMA3}, eos_token_id=[5, 6],
    ).save_pretrained(tmp_path)  # fmt: skip
    config = load_model_config(tmp_path)
    assert (config.vocab_size, config.num_kv_heads, config.head_dim, config.rope_theta) == (99, 2, 24, 1e6)
    assert (config.tie_word_embeddings, config.attention_bias, config.mlp_bias) == (True, True, False)
    assert config.eos_ids == (5, 6)


def test_what_a_file_leaves_out() -> None:
    config = small_config(num_key_value_heads=None, rope_scaling=None, rope_theta=None)
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (2, 4, 10000.0)
    assert config.dtype is None


def test_the_generation_file_decides_about_the_end(tmp_path: Path) -> None:
    assert load_model_config(write(tmp_path, RAW)).eos_ids == (2,)
    assert load_model_config(write(tmp_path, RAW, {"eos_token_id": [7, 8]})).eos_ids == (7, 8)
    assert load_model_config(write(tmp_path, RAW, {"eos_token_id": 0})).eos_ids == (0,)
    assert load_model_config(write(tmp_path, {**RAW, "eos_token_id": None}, {})).eos_ids == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "quantised \\(awq\\)"),
        ({"hidden_act": "gelu"}, "activation 'gelu'; only 'silu'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope scaling 'dynamic'; built are: default, lin"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor of the rope scaling is 0.5; it must be at"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "some layers in another way than others"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3 attention heads can't be shared out evenly over 2"),
        ({"num_attention_heads": 0}, "a value that can't be used"),
        ({"head_dim": 5}, "a head of 5 features can't be rotated"),
        ({"vocab_size": "many"}, "a value that can't be used"),
        ({"architectures": None}, "a value that can't be used"),
    ],
)
def test_what_is_not_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        small_config(**changes)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"config\.json has no 'hidden_size'"):
        parse_model_config({k: v for k, v in RAW.items() if k != "hidden_size"}, {}, where="config.json")


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        load_model_config(tmp_path)
    with pytest.raises(UnsupportedModelError, match="isn't valid JSON"):
        load_model_config(write(tmp_path, "{"))
    with pytest.raises(UnsupportedModelError, match="holds a list"):
        load_model_config(write(tmp_path, "[]"))


def test_an_unknown_architecture_names_those_that_there_are() -> None:
    with pytest.raises(UnsupportedModelError, match="'MambaForCausalLM' isn't built; there are: LlamaForCausalLM, Mis"):
        model_class("MambaForCausalLM")


def test_what_another_architecture_means_by_leaving_something_out() -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 16, "num_key_value_heads": None}
    assert small_config(architectures=["Qwen3ForCausalLM"], **sizes).head_dim == 128
    assert small_config(architectures=["Qwen3ForCausalLM"], head_dim=32, **sizes).head_dim == 32
    assert small_config(architectures=["Qwen2ForCausalLM"], **sizes).head_dim == 4
    raw = {key: value for key, value in RAW.items() if key != "num_key_value_heads"}
    for name, num_kv_heads in (("Mistral", 8), ("Qwen2", 32), ("Qwen3", 32), ("Llama", 64)):
        left_out = {**raw, "architectures": [f"{name}ForCausalLM"], "num_attention_heads": 64, "hidden_size": 128}
        assert parse_model_config(left_out, {}, where="").num_kv_heads == num_kv_heads
        assert parse_model_config({**left_out, "num_key_value_heads": None}, {}, where="").num_kv_heads == 64


QWEN = {"architectures": ["Qwen2ForCausalLM"]}
QWEN_WINDOW = {**QWEN, "sliding_window": 32, "max_window_layers": 1}
MISTRAL = {"architectures": ["MistralForCausalLM"], "max_position_embeddings": 8192}


@pytest.mark.parametrize(
    "changes",
    [
        {**QWEN_WINDOW, "use_sliding_window": False},
        {**QWEN_WINDOW, "use_sliding_window": True, "max_window_layers": 2},  # as many as there are layers
        {**QWEN_WINDOW, "use_sliding_window": True, "sliding_window": 64},  # as long as the context
        {**QWEN_WINDOW, "use_sliding_window": True, "layer_types": ["full_attention", "full_attention"]},
        {**MISTRAL, "sliding_window": None},
        {**MISTRAL, "sliding_window": 8192},
        {**QWEN, "use_sliding_window": True},  # from layer 28 on, where the file doesn't say
        {"sliding_window": 4},  # a Llama has none
    ],
)
def test_a_window_that_hides_nothing_is_none(changes: dict[str, Any]) -> None:
    assert small_config(**changes).num_layers == 2


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({**QWEN_WINDOW, "use_sliding_window": True}, 32),
        ({**QWEN_WINDOW, "layer_types": ["full_attention", "sliding_attention"]}, 32),
        ({**MISTRAL, "sliding_window": 512}, 512),
        # a Mistral knows none of these fields
        ({**MISTRAL, "sliding_window": 512, "use_sliding_window": False}, 512),
        ({**MISTRAL, "sliding_window": 512, "max_window_layers": 2}, 512),
        ({**MISTRAL, "sliding_window": 512, "layer_types": ["full_attention", "full_attention"]}, 512),
        ({**QWEN, "use_sliding_window": True, "max_window_layers": 1, "max_position_embeddings": 8192}, 4096),
        (MISTRAL, 4096),  # as transformers reads a file that doesn't say
    ],
)
def test_a_window_is_refused(changes: dict[str, Any], window: int) -> None:
    with pytest.raises(UnsupportedModelError, match=f"sliding window of {window} tokens, and its context is"):
        small_config(**changes)


def test_layers_that_are_no_attention_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layers of the kinds \['linear_attention'\]"):
        small_config(layer_types=["full_attention", "linear_attention"])


def test_yarn_as_the_model_card_of_qwen_asks_for_it(tmp_path: Path) -> None:
    """Whoever follows the card adds `rope_scaling`, and leaves the context as it was."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    Qwen3Config(
        architectures=["Qwen3ForCausalLM"], vocab_size=99, hidden_size=64, num_attention_heads=4, num_hidden_layers=2,
        num_key_value_heads=2, max_position_embeddings=40960,
    ).save_pretrained(tmp_path)  # fmt: skip
    raw = json.loads((tmp_path / "config.json").read_text())
    rope = raw.pop("rope_parameters")
    config = load_model_config(write(tmp_path, {**raw, "rope_theta": rope["rope_theta"], "rope_scaling": yarn}))
    assert config.max_position_embeddings == 131072
    assert isinstance(config.rope_scaling, YarnScaling)
    assert (config.rope_scaling.factor, config.rope_scaling.attention_factor) == (4.0, pytest.approx(1.1386294))


def test_linear_scaling_leaves_the_context_that_the_file_names() -> None:
    config = small_config(rope_scaling={"type": "linear", "factor": 4})
    assert (config.rope_scaling, config.max_position_embeddings) == (LinearScaling(4.0), 64)
