"""`learnsgl bench offline` with made-up engines, and with the real ones on the tiny model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from learnsgl.bench.offline import OfflineResults, Settings, measure
from learnsgl.bench.offline_tables import offline_tables
from learnsgl.bench.peers.base import PeerSpec, Wave
from learnsgl.bench.peers.process import PeerProcess, make_peer
from learnsgl.bench.workload import Lengths, Request, make_requests
from learnsgl.errors import OptionError, ServingError, StartupError
from learnsgl.hub import resolve_model
from tests.bench.fake_peer import VOCAB_SIZE, FakePeer, make_failing_peer


def spec(name: str, kind: str, *, folder: Path = Path(), quantization: str = "none") -> PeerSpec:
    return PeerSpec(
        name=name, kind=kind, model="tiny-random", model_folder=folder, gguf=None, dtype="float32",
        quantization=quantization, num_threads=1, max_batch=4, max_len=32,
    )  # fmt: skip


def settings(*, num_requests: int | None = None, repeats: int = 2) -> Settings:
    return Settings(
        model="tiny-random", dtype="float32", quantizations=["none"], peers=["transformers", "llama.cpp"],
        input_len=Lengths(3, 9), output_len=Lengths(2, 5), batches=[1, 3], num_requests=num_requests,
        repeats=repeats, num_threads=1, seed=0,
    )  # fmt: skip


# ---------------------------------------------------------------- the workload


def test_a_round_has_the_same_prompts_for_the_same_seed_only() -> None:
    def made(seed: int, number: int) -> list[Request]:
        return make_requests(4, Lengths(5, 9), Lengths(1, 1), vocab_size=100, seed=seed, round_number=number)

    assert made(0, 1) == made(0, 1)
    assert made(0, 1) != made(0, 2)
    assert made(0, 1) != made(1, 1)
    assert all(5 <= len(one.prompt_ids) <= 9 and min(one.prompt_ids) >= 10 for one in made(0, 1))


@pytest.mark.parametrize("text", ["", "0", "9:3", "1:2:3", "x", "-4"])
def test_lengths_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--input-len is"):
        Lengths.parse(text, "--input-len")


def test_lengths_read_as_they_are_written() -> None:
    assert [str(Lengths.parse(text, "--x")) for text in ("7", "7:7", "64:256")] == ["7", "7", "64:256"]


# ---------------------------------------------------------------- waves and rounds


def test_prefill_and_decode_are_told_apart() -> None:
    wave = Wave([(1, 1.0), (2, 2.0), (4, 2.5), (5, 3.5)], [[1, 2, 3], [4, 5]])
    assert (wave.prefill_s, wave.total_s) == (2.0, 3.5)
    assert (wave.num_tokens, wave.num_decoded) == (5, 3)
    assert wave.gaps_s == [0.5, 1.0]


def test_engines_take_turns_on_the_same_prompts() -> None:
    peers: list[FakePeer] = []

    def start(one: PeerSpec) -> FakePeer:
        peers.append(FakePeer(one))
        return peers[-1]

    specs = [spec("learnsgl", "learnsgl"), spec("wrong", "transformers"), spec("llama.cpp", "llama.cpp")]
    results = measure(settings(num_requests=4), specs, lambda text: None, start=start)
    ours, theirs = peers
    assert ours.waves == theirs.waves
    assert [len(wave) for wave in ours.waves] == 3 * [1, 1, 1, 1] + 3 * [3, 1]
    assert len({tuple(request.prompt_ids) for wave in ours.waves for request in wave}) == 3 * 4 * 2
    assert [(one.batch, one.number, one.peer) for one in results.rounds[:4]] == [
        (1, 1, "learnsgl"), (1, 1, "wrong"), (1, 2, "learnsgl"), (1, 2, "wrong"),
    ]  # fmt: skip
    assert {one.peer: one.num_same for one in results.rounds} == {"learnsgl": 4, "wrong": 0}
    assert results.absent == {"llama.cpp": "it was left at home"}
    assert [peer.num_closed for peer in peers] == [1, 1]


def test_the_tables_name_every_engine_and_what_is_absent() -> None:
    specs = [spec("learnsgl", "learnsgl"), spec("transformers", "transformers"), spec("llama.cpp", "llama.cpp")]
    results = measure(settings(), specs, lambda text: None, start=FakePeer)
    again = msgspec.json.decode(msgspec.json.encode(results), type=OfflineResults)
    rates, ratios = offline_tables(again)
    assert [row[0] for row in rates.rows] == 2 * ["learnsgl", "transformers"]
    assert "llama.cpp is absent: it was left at home." in rates.note
    assert ratios.rows[0] == ["learnsgl", "1", "1.00", "1.3", "missed", "1.00", "1.0", "met"]


# ---------------------------------------------------------------- engines in processes of their own


def test_an_engine_in_a_process_answers_and_ends() -> None:
    with PeerProcess(spec("fake", "learnsgl"), make=FakePeer) as peer:
        assert peer.facts.vocab_size == VOCAB_SIZE
        assert peer.run([Request([1, 2], 2)]).tokens == [[2, 2]]
        process = peer._process
    assert process.exitcode == 0


def test_an_engine_that_cannot_start_says_why() -> None:
    with pytest.raises(StartupError, match="fake could not start: OSError: no such weights"):
        PeerProcess(spec("fake", "learnsgl"), make=make_failing_peer)


def test_an_engine_whose_process_dies_is_named() -> None:
    with PeerProcess(spec("fake", "learnsgl"), make=FakePeer) as peer:
        peer._process.kill()
        peer._process.join()
        with pytest.raises(ServingError, match="the process of fake ended with exit code -9"):
            peer.run([Request([1], 1)])


def test_learnsgl_and_transformers_give_the_same_tokens() -> None:
    folder = resolve_model("tiny-random", progress=False).folder
    specs = [spec(name, name, folder=folder) for name in ("learnsgl", "transformers")]
    results = measure(settings(repeats=1), specs, lambda text: None, start=make_peer)
    theirs = [one for one in results.rounds if one.peer == "transformers"]
    assert [(one.num_same, one.num_requests) for one in theirs] == [(1, 1), (3, 3)]
    assert all(one.prefill_s > 0 and one.decode_s > 0 for one in results.rounds)
    assert len({one.num_output_tokens for one in results.rounds if one.batch == 3}) == 1
