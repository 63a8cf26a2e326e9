"""`learnsgl bench offline --alone --floor`: one engine after the other, failures apart, the floor beside them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learnsgl.bench import run
from learnsgl.bench.offline import NANO_VLLM, WARM_UP_LEN, OfflineResults, Settings, make_round, measure
from learnsgl.bench.offline_options import add_offline_options
from learnsgl.bench.offline_tables import offline_tables
from learnsgl.bench.peers.base import PeerSpec, Wave
from learnsgl.bench.peers.process import PeerProcess
from learnsgl.bench.sizes import Ceilings, ModelSizes
from learnsgl.bench.workload import Lengths, Request, nano_vllm_requests
from learnsgl.errors import ServingError, StartupError
from learnsgl.hub import resolve_model
from tests.bench.fake_peer import FakePeer

SIZES = ModelSizes(490_000, 10_000, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=125, dtype_bytes=2)
CEILINGS = Ceilings("NVIDIA Made-up", 1e8, 1 << 30, 1e12, 8192, "bfloat16")
SETTINGS = Settings(
    model="tiny-random", dtype="float32", quantizations=["none"], peers=["transformers", "llama.cpp"],
    input_len=Lengths(3, 9), output_len=Lengths(2, 5), batches=[1, 3], num_requests=None, repeats=2, num_threads=1,
    seed=0, alone=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve_model("tiny-random", progress=False).folder


def specs(folder: Path, *kinds: str, **changes: Any) -> list[PeerSpec]:
    return [
        PeerSpec(
            name=kind, kind=kind, model="tiny-random", model_folder=folder, gguf=None, dtype="float32",
            quantization="none", num_threads=1, max_batch=4, max_len=32, **changes,
        )
        for kind in kinds
    ]  # fmt: skip


class EndingPeer(FakePeer):
    """Fails at its third wave, or tells only when all was over, by its name."""

    def run(self, requests: list[Request]) -> Wave:
        if self.facts.name == "transformers" and len(self.waves) == 2:
            raise ServingError("out of memory")
        wave = super().run(requests)
        if self.facts.name == "vllm":
            return Wave(wave.moments[-1:], wave.tokens)
        return wave


def test_each_has_the_device_for_itself_and_fails_alone(folder: Path) -> None:
    started: list[EndingPeer] = []

    def start(spec: PeerSpec) -> EndingPeer:
        assert all(peer.num_closed for peer in started), "another engine is still there"
        if spec.name == "sglang":
            raise StartupError("sglang could not start: no kernel")
        started.append(EndingPeer(spec))
        return started[-1]

    kinds = ("learnsgl", "transformers", "llama.cpp", "sglang", "vllm")
    kept: list[int] = []
    results = measure(
        SETTINGS, specs(folder, *kinds), lambda text: None, start=start, limits=(SIZES, CEILINGS),
        keep=lambda results: kept.append(len(results.rounds)),
    )  # fmt: skip
    assert kept == [4, 5, 5, 5, 9]
    assert [(one.peer, one.batch, one.number) for one in results.rounds] == [
        *(("learnsgl", batch, number) for batch in (1, 3) for number in (1, 2)), ("transformers", 1, 1),
        *(("vllm", batch, number) for batch in (1, 3) for number in (1, 2)),
    ]  # fmt: skip
    assert results.absent == {"llama.cpp": "it was left at home"}
    assert results.failed == {"transformers": "out of memory", "sglang": "sglang could not start: no kernel"}
    assert started[0].waves == started[2].waves
    assert {one.peer: one.num_same for one in results.rounds if one.batch == 3} == {"learnsgl": 3, "vllm": 3}
    again = msgspec.json.decode(msgspec.json.encode(results), type=OfflineResults)
    rates, ratios, floors = offline_tables(again)
    assert [row[0] for row in rates.rows] == ["learnsgl", "transformers", "vllm", "learnsgl", "vllm"]
    assert rates.rows[2][4:6] == ["", ""], "who tells no step has no rate of its own for prompts and answers"
    assert "transformers failed: out of memory." in rates.note
    assert [row[:3] for row in ratios.rows] == [["learnsgl", "1", "1.00"], ["vllm", "1", ""]]
    assert [row[0] for row in floors.rows[:4]] == ["the floor", "learnsgl", "transformers", "vllm"]
    assert [row[0] for row in floors.rows[4:]] == ["the floor", "learnsgl", "vllm"]
    assert "Made-up" in floors.note


def test_the_share_of_the_floor(folder: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, batches=[3], output_len=Lengths(5, 5), input_len=Lengths(4, 4))
    peers = specs(folder, "learnsgl", "vllm")
    results = measure(settings, peers, lambda text: None, start=EndingPeer, limits=(SIZES, CEILINGS))
    (floor,) = results.floors.values()
    # four steps of 1 MB of weights and three contexts of 5, 6, 7 and 8 tokens of 1 kB, at 100 MB/s
    assert floor.decode_s == pytest.approx(4 * 0.01 + 3 * 26 * 1e-5)
    head, ours, theirs = offline_tables(results)[-1].rows
    assert head[:6] == ["the floor", "", "", "3", f"{floor.total_s:.2f}", f"{15 / floor.total_s:,.0f}"]
    assert ours[6:] == [f"{floor.total_s / 0.55:.0%}", "60%", "missed", ""]
    assert theirs[6:] == [ours[6], "", "", "1.00"]


def test_random_weights_or_samples_are_not_compared(folder: Path) -> None:
    def is_compared(temperature: float = 0.0, **changes: Any) -> bool:
        settings = msgspec.structs.replace(SETTINGS, temperature=temperature)
        results = measure(settings, specs(folder, "learnsgl", **changes), lambda text: None, start=FakePeer)
        same = offline_tables(results)[0].rows[0][-1]
        assert results.comparable == bool(same)
        return results.comparable

    assert is_compared()
    assert not is_compared(has_weights=False)
    assert not is_compared(temperature=0.6)


def test_no_figure_at_all_is_an_error(folder: Path) -> None:
    with pytest.raises(ServingError, match=r"no engine gave a figure: llama.cpp: it was left at home"):
        measure(SETTINGS, specs(folder, "llama.cpp"), lambda text: None, start=FakePeer)


def test_nano_vllms_workload_is_warmed_up_by_other_prompts() -> None:
    settings = msgspec.structs.replace(SETTINGS, workload=NANO_VLLM, repeats=2)
    warm_up, first, second = (make_round(settings, 256, number, 20_000) for number in range(3))
    assert first == nano_vllm_requests(20_000)
    assert max(one.output_len for one in warm_up) == WARM_UP_LEN
    prompts = [{tuple(one.prompt_ids[:4]) for one in requests} for requests in (warm_up, first, second)]
    assert prompts[0].isdisjoint(prompts[1] | prompts[2])
    assert prompts[1].isdisjoint(prompts[2])


class SleepingPeer(FakePeer):
    """Never answers."""

    def run(self, requests: list[Request]) -> Wave:
        import time

        time.sleep(3600)
        return super().run(requests)


class RaisingPeer(FakePeer):
    """Raises what no engine of ours would."""

    def run(self, requests: list[Request]) -> Wave:
        raise AssertionError("a foreign engine")


def test_an_engine_that_takes_too_long_is_ended(folder: Path) -> None:
    (slow,) = specs(folder, "learnsgl", limit_s=None)
    with PeerProcess(slow, make=SleepingPeer) as peer:
        peer._limit_s = 0.3
        with pytest.raises(ServingError, match=r"learnsgl gave no answer within 0.3 s, and was ended"):
            peer.run([Request([1], 1)])
        peer._process.join()
        assert peer._process.exitcode == -9


def test_whatever_an_engine_raises_is_told(folder: Path) -> None:
    with (
        PeerProcess(*specs(folder, "learnsgl"), make=RaisingPeer) as peer,
        pytest.raises(ServingError, match="learnsgl failed: AssertionError: a foreign engine"),
    ):
        peer.run([Request([1], 1)])


# ---------------------------------------------------------------- from the command line


def asked(words: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, list[PeerSpec], Any]:
    """What the command line asks for, nothing of it measured."""
    found: list[Any] = []

    def fake_measure(settings: Settings, specs: list[PeerSpec], tell: object, **others: Any) -> OfflineResults:
        found.extend([settings, specs, others["limits"]])
        return OfflineResults([], {}, [])

    monkeypatch.setattr(run.offline, "measure", fake_measure)
    monkeypatch.setattr(run, "measure_in_process", lambda device, dtype: CEILINGS)
    parser = argparse.ArgumentParser()
    add_offline_options(parser)
    run._offline(parser.parse_args(words.split()), lambda settings, results: None)
    settings, specs, limits = found
    return settings, specs, limits


def test_the_workload_of_a_gpu_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, specs, limits = asked(
        "--model dummy:qwen3-0.6b --dtype bfloat16 --quantization none --workload nano-vllm --alone --floor "
        "--temperature 0.6 --max-prefill-length 8192 --limit-s 100 --device cuda --peer transformers-paged mini-sglang",
        monkeypatch,
    )
    assert settings.batches == [256]
    assert [spec.kind for spec in specs] == ["learnsgl", "transformers-paged", "mini-sglang"]
    for spec in specs:
        assert (spec.max_batch, spec.max_len, spec.has_weights, spec.alone) == (256, 2048, False, True)
        assert (spec.device, spec.temperature, spec.max_prefill_length, spec.limit_s) == ("cuda", 0.6, 8192, 100)
    assert specs[0].options == {"max_model_len": 4096}
    assert limits[0].weight_bytes == 1_191_968_768


def test_in_turns_nothing_is_taken_for_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, specs, limits = asked("--model tiny-random --batch 2 4 --peers transformers", monkeypatch)
    assert (settings.batches, limits) == ([2, 4], None)
    assert [spec.name for spec in specs] == ["learnsgl", "learnsgl int8", "transformers"]
    assert all(spec.has_weights and not spec.alone and not spec.options for spec in specs)
    assert {spec.max_len for spec in specs} == {128 + 64}
