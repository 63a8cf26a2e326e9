"""The recordings of a GPU, as far as they can be made without one: their options, their pairs, and one on a CPU."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from learnsgl.config import Config
from learnsgl.options import add_options, config_from_args

FOLDER = Path(__file__).parents[1] / "traces"


@pytest.fixture(scope="module")
def record() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("record")
    for name in [name for name in sys.modules if name == "record" or name.partition(".")[0] == "recordings"]:
        del sys.modules[name]


def config_of(options: tuple[str, ...]) -> Config:
    parser = argparse.ArgumentParser()
    add_options(parser)
    config = config_from_args(parser.parse_args(options))
    config.check()
    return config


def values_of(config: Config) -> set[tuple[str, str, str]]:
    areas = config.to_json()
    return {(area, name, repr(value)) for area, values in areas.items() for name, value in values.items()}


def test_the_server_knows_the_options_of_every_recording(record: ModuleType) -> None:
    for recording in record.GPU_RECORDINGS.values():
        assert config_of(recording.options).engine.device == "cuda"


def test_partners_have_the_same_requests_and_differ_in_one_option(record: ModuleType) -> None:
    pairs = {name: recording.partner for name, recording in record.GPU_RECORDINGS.items() if recording.partner}
    assert set(pairs) == set(pairs.values())
    assert len(pairs) == 6
    for name, partner in pairs.items():
        mine, other = record.GPU_RECORDINGS[name], record.GPU_RECORDINGS[partner]
        assert mine.rounds == other.rounds
        assert len(values_of(config_of(mine.options)) - values_of(config_of(other.options))) == 1


@pytest.mark.model
def test_a_recording_is_made_and_read_where_a_cpu_stands_in(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = record.KNOWN["engine_start_gpu"]
    options = tuple("cpu" if word == "cuda" else word for word in recording.options)
    monkeypatch.setitem(record.KNOWN, "engine_start_gpu", dataclasses.replace(recording, options=options))
    file = record.record("engine_start_gpu", tmp_path)
    assert file.stat().st_size < record.MAX_BYTES
    assert len(record.facts_of("engine_start_gpu", tmp_path).lives) == 1
    (claim,) = recording.claims
    assert record.untrue("engine_start_gpu", tmp_path) == [claim.text], "without a GPU there are no graphs"
    assert "0 CUDA graphs" in recording.notice(*2 * [record.facts_of("engine_start_gpu", tmp_path)])


def test_the_table_alone_can_be_written(record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(f"before\n{record.TABLE_BEGIN}\nold\n{record.TABLE_END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(record, "README", copy)
    monkeypatch.setattr(record, "table", lambda: "new")
    monkeypatch.setattr(sys, "argv", ["record.py", "--table"])
    assert record.main() == 0
    assert copy.read_text(encoding="utf-8") == f"before\n{record.TABLE_BEGIN}\nnew\n{record.TABLE_END}\nafter\n"
