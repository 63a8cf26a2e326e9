"""The recordings in `traces/`: each verifies, is small, holds no text and no path, and stands in the README's table."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from learnsgl.config import TraceLevel
from learnsgl.trace import events as ev
from learnsgl.trace.events import KINDS
from learnsgl.trace.pack import pack
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import to_json
from learnsgl.trace.verify import verify

FOLDER = Path(__file__).parents[1] / "traces"
FILES = sorted(FOLDER.glob("*.trace.zip"))
MAX_BYTES_IN_ALL = 3_000_000
ABSOLUTE_PATH = re.compile(r"(?<![\w./:>])/(?!v1/|generate|health)[A-Za-z]")
"""A path from the root. Routes of the HTTP API are none, and neither is what follows `http:`."""


@pytest.fixture(scope="module")
def record():
    """The script `traces/record.py` as a module; it imports the package beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("record")
    for name in [name for name in sys.modules if name == "record" or name.partition(".")[0] == "recordings"]:
        del sys.modules[name]


def name_of(file):
    return file.name.removesuffix(".trace.zip")


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)


def test_every_file_is_one_that_the_script_makes(record):
    assert {file.name for file in FILES} == {record.path_of(name).name for name in record.RECORDINGS}


def test_the_table_in_the_readme_is_that_of_the_files(record):
    assert record.readme_with(record.table()) == record.README.read_text(encoding="utf-8"), (
        "traces/README.md is stale; run python traces/record.py, or correct its table"
    )
    assert all(f"`{record.command_of(name)}`" in record.table() for name in record.RECORDINGS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recording_shows_what_its_row_says(record, file):
    assert record.untrue(name_of(file)) == []


def test_a_sentence_that_is_not_true_is_found(record, monkeypatch):
    told = record.RECORDINGS["first_request"]
    wrong = dataclasses.replace(
        told.claims[0], text="It has two requests.", holds=lambda facts, _: len(facts.lives) == 2
    )
    monkeypatch.setitem(
        record.RECORDINGS, "first_request", dataclasses.replace(told, claims=(*told.claims, wrong))
    )  # fmt: skip
    monkeypatch.setattr(record, "MAX_BYTES", 1000)
    said, size = record.untrue("first_request")
    assert said == "It has two requests."
    assert re.fullmatch(r"It takes \d\d,\d{3} bytes; at most 1,000 are allowed\.", size)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recording_was_made_as_the_script_says(record, file):
    recording, facts = record.RECORDINGS[name_of(file)], record.facts_of(name_of(file))
    command = ["learnsgl", "serve", "--port", "0", "--model", "smollm2-135m", "--trace", "runs", *recording.options]
    assert facts.trace.manifest["command"] == command
    assert facts.trace.manifest["made_by"] == record.command_of(name_of(file))
    assert len(facts.lives) == sum(map(len, recording.rounds))
    limits = sorted(ask.max_tokens for asks in recording.rounds for ask in asks)
    assert all(length <= limit for length, limit in zip(facts.answers, limits, strict=True))


def options(config):
    return {(area, name): value for area, values in config.items() for name, value in values.items()}.items()


def test_partners_have_the_same_requests_and_differ_in_one_option(record):
    pairs = {name: recording.partner for name, recording in record.RECORDINGS.items() if recording.partner}
    assert set(pairs) == set(pairs.values()) >= {name for name in record.RECORDINGS if name.startswith("pair_")}
    for name, partner in pairs.items():
        assert pairs[partner] == name
        assert record.RECORDINGS[name].rounds == record.RECORDINGS[partner].rounds
        mine, others = (options(record.facts_of(one).trace.manifest["config"]) for one in (name, partner))
        assert len(mine - others) == 1, f"{name} and {partner} differ in {sorted(mine ^ others)}"


def test_an_unknown_name_starts_no_server(record, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["record.py", "first_request", "second_request"])
    with pytest.raises(SystemExit):
        record.main()
    assert "no recording is called 'second_request'; there are: first_request, chat_conc" in capsys.readouterr().err


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recording_is_small_and_whole(record, file):
    assert file.stat().st_size <= record.MAX_BYTES
    killed = record.RECORDINGS[name_of(file)].kills
    report = verify(Trace.open(file))
    assert report.is_whole == (killed is None), report.notes
    assert killed is None or any("it died (process.lost)" in note and note.startswith(killed) for note in report.notes)


def test_all_together_are_small():
    assert sum(file.stat().st_size for file in FILES) <= MAX_BYTES_IN_ALL


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recording_holds_text_only_on_purpose(record, file):
    trace = Trace.open(file)
    told = {entry.kind for entry in trace.events()}
    of_text = {kind for kind in told if KINDS[kind].LEVEL is TraceLevel.TOKENS}
    on_purpose = name_of(file) == "tokens_level"
    assert record.RECORDINGS[name_of(file)].with_text == on_purpose
    assert of_text == ({"tok.text", "detok.text"} if on_purpose else set())
    assert trace.level == ("tokens" if on_purpose else "full")
    assert not trace.unknown


def test_the_recording_with_text_holds_the_prompts_that_the_script_sends(record):
    told = [entry.event for entry in Trace.open(record.path_of("tokens_level")).events()]
    prompts = [event.text for event in told if isinstance(event, ev.TokText)]
    asked = [ask.question for asks in record.RECORDINGS["tokens_level"].rounds for ask in asks]
    assert all(any(question in prompt for prompt in prompts) for question in asked)
    answers = [text for event in told if isinstance(event, ev.DetokText) for text in event.texts]
    assert "lighthouse" in "".join(answers)


def test_the_recording_with_text_can_be_packed_without_it(record, tmp_path):
    file = pack(record.path_of("tokens_level"), tmp_path / "x.trace.zip")
    before, after = Trace.open(record.path_of("tokens_level")), Trace.open(file)
    assert verify(after).is_whole
    assert after.num_events == before.num_events
    told = json.dumps([to_json(entry) for entry in after.events()])
    assert "lighthouse" in json.dumps([to_json(entry) for entry in before.events()])
    assert "lighthouse" not in told


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recording_holds_no_path_of_the_machine_that_made_it(file):
    trace = Trace.open(file)
    told = [*strings(trace.manifest), *(text for entry in trace.events() for text in strings(to_json(entry)))]
    assert not [text for text in told if ABSOLUTE_PATH.search(text)]
    headers = [trace.process(name).segments[0].header for name in trace.processes]
    assert not ABSOLUTE_PATH.search(json.dumps([{**header, "kinds": None} for header in headers]))


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("/home/ann/traces", True),
        ("learnsgl serve --trace /data/runs", True),
        ("--trace=/data/runs", True),
        ("'/tmp'", True),
        ("/v1/chat/completions", False),
        ("http://127.0.0.1:8000/v1", False),
        ("runs/20260101", False),
        ("AMD EPYC 7/9", False),
    ],
)
def test_the_search_for_paths_finds_them(text, is_path):
    assert bool(ABSOLUTE_PATH.search(text)) == is_path
