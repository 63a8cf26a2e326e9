"""`learnsgl bench steps` on the tiny model, its tables from made-up results, and what it reads from a recording."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from learnsgl.bench.peers.base import PeerSpec, longest_context
from learnsgl.bench.peers.process import make_peer
from learnsgl.bench.sizes import CPU, Ceilings, ModelSizes
from learnsgl.bench.steps import (
    DEFAULT,
    VARIANTS,
    DecodeSteps,
    Prefills,
    Settings,
    StepsResults,
    Variant,
    decode_round,
    measure,
    variants_of,
)
from learnsgl.bench.steps_read import StepTimes, read_steps
from learnsgl.bench.steps_tables import idle_share, steps_tables
from learnsgl.errors import ServingError, StartupError
from learnsgl.hub import resolve_model
from learnsgl.models.config import load_model_config

ROOT = Path(__file__).parents[2]
CEILINGS = Ceilings(CPU, 1e9, 1 << 20, 1e9, 64, "float32")
SETTINGS = Settings(
    models=["tiny-random"], dtype="float32", device="cpu", batches=[1, 3], context=20, steps=8, prefill_len=40,
    prefill_repeats=2, variants=True, num_threads=1, seed=0,
)  # fmt: skip


def test_steps_of_the_tiny_model() -> None:
    told: list[str] = []
    results = measure(SETTINGS, CEILINGS, told.append, start=make_peer)
    assert [(one.variant, one.batch) for one in results.decodes] == [
        (DEFAULT, 1), (DEFAULT, 3), (Variant(False, True), 1), (Variant(False, True), 3),
    ]  # fmt: skip
    for one in results.decodes:
        assert 1 <= len(one.times.device_us) <= 8 - 3  # the first four don't count, and one more may have run
        assert len(one.times.gap_us) == len(one.times.wall_us) >= len(one.times.device_us) - 1
        assert min(one.times.device_us) > 0
        assert one.times.num_in_graphs == 0
        assert all(20 - 4 <= tokens / one.batch <= 20 + 8 for tokens in one.times.context_tokens)
        assert one.times.context_tokens == sorted(one.times.context_tokens)
    (prefill,) = results.prefills
    assert (prefill.num_tokens, len(prefill.device_us)) == (40, 2)
    again = msgspec.json.decode(msgspec.json.encode(results), type=StepsResults)
    assert [table.name for table in steps_tables(again)] == ["steps-decode", "steps-idle", "steps-prefill"]


def test_an_engine_has_a_context_like_its_peers() -> None:
    config = load_model_config(resolve_model("tiny-random", progress=False).folder)
    wide = dataclasses.replace(config, max_position_embeddings=40_960)
    assert [longest_context(wide, length) for length in (5, 8193, 90_000)] == [4096, 8193, 40_960]
    assert longest_context(config, 5) == min(4096, config.max_position_embeddings)


def test_the_context_is_met_in_the_middle() -> None:
    (request,) = decode_round(SETTINGS, 1, 0, 260)
    assert len(request.prompt_ids) == 20 - 4
    assert request.output_len == 9


def test_graphs_are_switched_off_where_there_are_any() -> None:
    gpu = msgspec.structs.replace(CEILINGS, device="NVIDIA Made-up")
    assert variants_of(SETTINGS, 0, gpu) == list(VARIANTS)
    assert variants_of(SETTINGS, 1, gpu) == [DEFAULT]
    assert variants_of(SETTINGS, 0, CEILINGS) == [DEFAULT, Variant(False, True)]
    assert variants_of(msgspec.structs.replace(SETTINGS, variants=False), 0, gpu) == [DEFAULT]
    assert Variant(True, False).options() == {"overlap": True, "cuda_graph_max_bs": 0}


def test_an_engine_that_fails_costs_no_others_figures() -> None:
    def start(spec: PeerSpec) -> object:
        if not spec.options["overlap"]:
            raise StartupError("no memory")
        return make_peer(spec)

    small = msgspec.structs.replace(SETTINGS, batches=[1])
    results = measure(small, CEILINGS, lambda text: None, start=start)  # type: ignore[arg-type]
    assert [one.variant for one in results.decodes] == [DEFAULT]
    assert results.failed == {"tiny-random, overlap off, graphs on": "no memory"}
    assert "overlap off, graphs on failed: no memory." in steps_tables(results)[0].note


def test_no_figure_at_all_is_an_error() -> None:
    def start(spec: PeerSpec) -> object:
        raise StartupError("no memory")

    with pytest.raises(ServingError, match=r"overlap on, graphs on: no memory; .*overlap off"):
        measure(SETTINGS, CEILINGS, lambda text: None, start=start)  # type: ignore[arg-type]


def test_the_engine_gets_the_attention_that_was_asked_for() -> None:
    asked: list[PeerSpec] = []

    def start(spec: PeerSpec) -> object:
        asked.append(spec)
        raise StartupError("seen")

    settings = msgspec.structs.replace(SETTINGS, attention_backend="flashinfer", variants=False)
    with pytest.raises(ServingError, match="seen"):
        measure(settings, CEILINGS, lambda text: None, start=start)  # type: ignore[arg-type]
    (spec,) = asked
    assert spec.options["attention_backend"] == "flashinfer"
    assert (spec.max_prefill_length, spec.max_batch, spec.alone) == (40, 3, True)


def test_a_stretch_without_such_steps_is_told_of() -> None:
    recording = ROOT / "traces" / "first_request.trace.zip"
    with pytest.raises(ServingError, match="no decode steps of 7 requests at once"):
        read_steps(recording, (0, 1 << 62), batch=7)
    with pytest.raises(ServingError, match="no prompts of 9 tokens in one step of 1 requests"):
        read_steps(recording, (0, 1 << 62), batch=1, prompt_len=9)
    with pytest.raises(ServingError, match="no decode steps of 1"):
        read_steps(recording, (0, 1), batch=1)
    assert len(read_steps(recording, (0, 1 << 62), batch=1).device_us) > 5


# ---------------------------------------------------------------- tables


def made_up() -> StepsResults:
    """A GPU of 1 GB/s; a model of 1 MB of weights and 1 kB of KV a token."""
    sizes = ModelSizes(490_000, 10_000, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=125, dtype_bytes=2)
    fast = StepTimes([2000.0, 2100.0, 2200.0], [10.0, 30.0], [2110.0, 2130.0], [16_000] * 3, 3, 1.0)
    slow = StepTimes([3000.0], [], [], [16_000], 0, 1.0)
    ceilings = Ceilings("NVIDIA Made-up", 1e10, 1 << 30, 1e12, 8192, "bfloat16")
    decodes = [DecodeSteps("m", DEFAULT, 64, fast), DecodeSteps("m", Variant(False, False), 64, slow)]
    return StepsResults(ceilings, {"m": sizes}, decodes, [Prefills("m", 1000, [4000.0])])


def test_a_decode_step_stands_beside_its_floor() -> None:
    decode, idle, prefill = steps_tables(made_up())
    (row,) = decode.rows
    # (1 MB + 16,000 tokens of 1 kB) at 10 GB/s are 1.7 ms
    assert row == [
        "m", "64", "250", "0.017", "1.700", "2.100 (2.000 to 2.200)", "81%", "70%", "met", "2.120 (2.110 to 2.130)",
        "3 of 3",
    ]  # fmt: skip
    assert idle.rows[0] == [
        "m", "64", "on", "on", "2.100 (2.000 to 2.200)", "20.0 (10.0 to 30.0)", "2.120 (2.110 to 2.130)", "0.9%", "2%",
        "met",
    ]  # fmt: skip
    assert idle.rows[1] == ["m", "64", "off", "off", "3.000", "", "", "", "", ""]
    # 2 * (490,000 * 1,000 + 10,000) and 4 * 4 * 125 * 500,500 operations in 4 ms
    assert prefill.rows == [["m", "1,000", "4.00", "250,000", "0.00098", "0.001001", "0.245", "0.4953", "1", "50%"]]
    assert "10 GB/s" in decode.note


def test_a_wait_that_the_clock_makes_negative_is_none() -> None:
    times = StepTimes([100.0, 100.0], [-0.2], [100.0], [10, 11], 2, 0.5)
    assert idle_share(DecodeSteps("m", DEFAULT, 1, times)) == 0.0
