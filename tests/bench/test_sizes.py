"""What a step must move and compute, the floors that follow, and what a device reaches."""

from __future__ import annotations

import pytest

from learnsgl.bench.ceilings import measure_ceilings, measure_in_process
from learnsgl.bench.sizes import Ceilings, ModelSizes, sizes_of, workload_floor
from learnsgl.bench.workload import Request, nano_vllm_requests
from learnsgl.errors import ServingError
from learnsgl.hub.dummy import PRESETS
from learnsgl.models.config import parse_model_config

H100 = Ceilings("NVIDIA Made-up", 3.0e12, 1 << 30, 798e12, 8192, "bfloat16")
SMALL = ModelSizes(100, 10, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, dtype_bytes=2)


def preset(name: str) -> ModelSizes:
    return sizes_of(parse_model_config(PRESETS[name].config, {}, where=name), "bfloat16")


def test_the_sizes_of_a_model_are_those_of_its_weights() -> None:
    qwen, llama = preset("qwen3-0.6b"), preset("llama-3.1-8b")
    assert qwen.weight_bytes == pytest.approx(1.192e9, rel=1e-3)
    assert qwen.kv_token_bytes == 112 * 1024
    # all parameters but norms; an untied embedding isn't read by a step
    assert qwen.weight_bytes // 2 == pytest.approx(PRESETS["qwen3-0.6b"].num_parameters, rel=2e-4)
    embedding = 128_256 * 4096
    assert llama.weight_bytes // 2 == pytest.approx(PRESETS["llama-3.1-8b"].num_parameters - embedding, rel=2e-4)


def test_a_decode_step_reads_weights_once_and_every_context() -> None:
    assert SMALL.weight_bytes == 220
    assert SMALL.kv_token_bytes == 2 * 2 * 2 * 8 * 2
    assert SMALL.decode_bytes(5) == 220 + 5 * 128
    floors_ms = [1e3 * preset("qwen3-0.6b").decode_bytes(1024 * batch) / 3.0e12 for batch in (1, 8, 64, 256)]
    assert floors_ms == pytest.approx([0.44, 0.71, 2.9, 10.4], rel=0.01)


def test_a_prompt_costs_a_triangle_of_attention() -> None:
    assert SMALL.linear_flops(3) == 2 * (100 * 3 + 10)
    assert SMALL.attention_flops(3) == 4 * 2 * 4 * 8 * (1 + 2 + 3)


def test_the_floor_of_a_workload_adds_up_its_steps() -> None:
    ceilings = Ceilings("x", 1000.0, 1, 100.0, 1, "bfloat16")
    floor = workload_floor([Request([1, 2, 3], 3), Request([1], 1)], SMALL, ceilings)
    flops = SMALL.linear_flops(3) + SMALL.attention_flops(3) + SMALL.linear_flops(1) + SMALL.attention_flops(1)
    assert floor.prefill_s == pytest.approx(flops / 100)
    # two decode steps of the first request, with 4 and 5 tokens of context; the other one ends with its prompt
    assert floor.decode_s == pytest.approx((SMALL.decode_bytes(4) + SMALL.decode_bytes(5)) / 1000)
    assert floor.num_output_tokens == 4
    assert floor.output_rate == pytest.approx(4 / floor.total_s)


def test_nano_vllms_workload_has_its_totals_and_its_floor() -> None:
    requests = nano_vllm_requests(151_936)
    assert sum(len(request.prompt_ids) for request in requests) == 142_827
    assert sum(request.output_len for request in requests) == 133_966
    assert requests[0].prompt_ids[:3] == [6311, 6890, 663]
    floor = workload_floor(requests, preset("qwen3-0.6b"), H100)
    assert floor.total_s == pytest.approx(5.2, rel=0.01)
    assert floor.output_rate == pytest.approx(25_700, rel=0.01)


def test_another_round_has_the_same_lengths_and_other_ids() -> None:
    first, second, tiny = nano_vllm_requests(20_000), nano_vllm_requests(20_000, 1), nano_vllm_requests(260)
    lens = [(len(one.prompt_ids), one.output_len) for one in first]
    assert [(len(one.prompt_ids), one.output_len) for one in second] == lens
    assert all(a.prompt_ids[0] != b.prompt_ids[0] for a, b in zip(first, second, strict=True))
    assert max(token for one in first for token in one.prompt_ids) == 10_000
    assert max(token for one in tiny for token in one.prompt_ids) == 259


def test_a_device_reaches_something() -> None:
    found = measure_ceilings("cpu", "float32", repeats=1)
    assert (found.device, found.dtype) == ("CPU", "float32")
    assert found.copy_bytes_per_s > 0
    assert found.matmul_flops_per_s > 0
    assert "bytes read plus bytes written" in found.text()


def test_a_device_that_is_not_there_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ServingError, match="the bandwidth and the rate of the device could not be measured"):
        measure_in_process("cuda", "bfloat16")
