"""Where a GPU's memory goes: the parts add up to what is gone, and what doesn't fit is refused with numbers."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.engine import create_engine
from learnsgl.engine.memory import parts_of
from learnsgl.engine.parts import out_of_memory
from learnsgl.errors import OutOfMemoryError

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
    "tie_word_embeddings": True, "eos_token_id": 151645, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("changes", [{}, {"memory_ratio": 0.3}, {"num_pages": 4096}, {"page_size": 16}], ids=str)
def test_the_parts_add_up(folder: Path, changes: dict[str, Any]) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    config = EngineConfig(device="cuda", dummy_weights=True, **changes)
    engine = create_engine(folder, "qwen3", config, SchedulerConfig(max_prefill_length=2048))
    memory, num_pages = engine.info.memory, engine.info.num_pages
    engine.close()
    taken = memory["available_before"] - memory["available_after"]
    parts = parts_of(memory)
    assert abs(sum(parts.values()) - taken) <= 0.02 * taken, memory
    assert parts["kv_pages"] == num_pages * memory["page"]
    if "num_pages" not in changes:
        left = memory["available_before"] - sum(parts.values()) + parts["kv_pages"]
        # more pages than all requests can fill are never made
        full = engine.info.max_running_requests * 40960 * memory["page"] // config.page_size
        assert abs(parts["kv_pages"] - min(changes.get("memory_ratio", 0.9) * left, full)) <= 0.02 * left


def test_pages_that_do_not_fit_are_refused_with_numbers(folder: Path) -> None:
    config = EngineConfig(device="cuda", dummy_weights=True, num_pages=1 << 27)
    with pytest.raises(OutOfMemoryError, match=r"--num-pages 134217728 of 114688 bytes need .* give at most \d+"):
        create_engine(folder, "qwen3", config, SchedulerConfig())


def test_memory_that_runs_out_is_told_in_our_words() -> None:
    with (
        pytest.raises(OutOfMemoryError, match="the ballast don't fit into memory: CUDA out of memory"),
        out_of_memory("the ballast"),
    ):
        torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
