"""Perfetto and Chrome: each holds to its format's rules, both say the same, and what they say is what happened."""

from __future__ import annotations

import io
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from learnsgl.export import export_trace
from learnsgl.export.counters import COUNTERS
from learnsgl.export.perfetto import _Interned
from learnsgl.trace import events as ev
from learnsgl.trace.checks.base import ints
from learnsgl.trace.life import STAGES
from learnsgl.trace.lives import requests
from learnsgl.trace.manifest import read_manifest
from learnsgl.trace.reader import Trace
from tests.export.recordings import ANSWER, PROMPT, SORTS
from tests.export.rules import Shown, read_chrome, read_perfetto
from tests.trace.story import UID, tell, write


def exported(trace: Trace, format: str, **options: bool) -> bytes:
    stream = io.BytesIO()
    num_bytes = export_trace(trace, format, stream, **options)
    assert num_bytes == len(stream.getvalue())
    return stream.getvalue()


def shown(trace: Trace) -> Shown:
    return read_perfetto(exported(trace, "perfetto"))


def test_both_formats_keep_their_rules_and_show_the_same(trace: Trace) -> None:
    perfetto, chrome = shown(trace), read_chrome(exported(trace, "chrome"))
    assert perfetto.slices == chrome.slices
    assert perfetto.instants == chrome.instants
    assert perfetto.samples == chrome.samples
    assert perfetto.flows == chrome.flows
    for track, samples in perfetto.samples.items():
        assert all(before[0] <= after[0] for before, after in pairwise(samples)), f"{track} goes back in time"
        assert all(value >= 0 for _, value in samples)


def test_the_stages_of_each_request_are_those_of_its_life(trace: Trace) -> None:
    stages = Counter(
        (each[2], each[3], each[4])
        for each, count in shown(trace).slices.items()
        for _ in range(count)
        if each[0] == "requests" and each[2] in STAGES
    )
    wanted = Counter(
        (stage.name, stage.start_ns, stage.end_ns) for life in requests(trace) for stage in life.stages if stage
    )
    assert stages == wanted


def test_every_message_has_its_arrow(trace: Trace) -> None:
    sent = {
        (entry.process, entry.event.channel, entry.event.number)
        for entry in trace.events()
        if isinstance(entry.event, ev.MsgSent)
    }
    received = {
        (entry.event.sender, entry.event.channel, entry.event.number)
        for entry in trace.events()
        if isinstance(entry.event, ev.MsgReceived)
    }
    told = shown(trace)
    assert len(told.flows) == len(sent & received)
    names = Counter(each[2].split()[0] for each, count in told.slices.items() for _ in range(count))
    assert (names["send"], names["receive"]) == (len(sent), len(received))


def test_the_story_is_told_as_it_was(story: Trace) -> None:
    told = shown(story)
    scheduler = "scheduler-0"
    assert told.slices[scheduler, scheduler, "schedule", 165, 180] == 1
    assert told.slices[scheduler, scheduler, "wait", 191, 240] == 1
    assert told.slices["tokenizer-0", "tokenizer-0", "tokenize", 121, 130] == 1
    device = "device: steps with prompt chunks"
    assert told.slices[scheduler, device, "prefill step", 195, 235] == 1
    assert told.slices[scheduler, device, "forward", 195, 220] == 1
    assert told.slices[scheduler, device, "sample", 221, 235] == 1
    assert told.slices[scheduler, "device: decode steps", "decode step", 295, 335] == 1
    assert told.slices["requests", f"request {UID}", f"request {UID}", 100, 401] == 1
    assert told.flows[0] == ("send TokenizeMsg", "receive TokenizeMsg")
    assert told.instants[scheduler, scheduler, "sched.admitted", 170] == 1
    assert told.instants["api", "api", "req.ended", 400] == 1
    assert told.samples[scheduler, "free pages"] == [(18, 16), (180, 13), (280, 12)]
    assert told.samples[scheduler, "tokens a step"] == [(180, 3), (280, 1)]
    assert told.samples[scheduler, "running"] == [(180, 1), (280, 1)]
    assert told.samples[scheduler, "cache hit rate"] == [(170, 0.0)]


def test_numbers_of_an_event_are_its_annotations(story: Trace) -> None:
    trace = pb.Trace()
    trace.ParseFromString(exported(story, "perfetto"))
    names = {each.iid: each.name for packet in trace.packet for each in packet.interned_data.event_names}
    keys = {each.iid: each.name for packet in trace.packet for each in packet.interned_data.debug_annotation_names}
    (admitted,) = (
        packet.track_event for packet in trace.packet if names.get(packet.track_event.name_iid) == "sched.admitted"
    )
    values = {keys[each.name_iid]: each for each in admitted.debug_annotations}
    assert values["step"].int_value == 1
    assert values["uids"].string_value == str(UID)
    assert values["promised"].string_value == "5"
    (request,) = (
        packet.track_event
        for packet in trace.packet
        if names.get(packet.track_event.name_iid) == f"request {UID}" and packet.track_event.debug_annotations
    )
    values = {keys[each.name_iid]: each for each in request.debug_annotations}
    assert values["streamed"].bool_value
    assert values["ttft_ms"].double_value == pytest.approx(175e-6)
    assert values["reason"].string_value == "length"


def test_wall_clock_time_is_in_both(story: Trace) -> None:
    trace = pb.Trace()
    trace.ParseFromString(exported(story, "perfetto"))
    snapshots = [packet.clock_snapshot for packet in trace.packet if packet.HasField("clock_snapshot")]
    clocks = [{clock.clock_id: clock.timestamp for clock in snapshot.clocks} for snapshot in snapshots]
    anchor = read_manifest(story.path)["clock"]
    assert {
        pb.BUILTIN_CLOCK_MONOTONIC: anchor["monotonic_ns"], pb.BUILTIN_CLOCK_REALTIME: anchor["time_ns"]
    } in clocks  # fmt: skip
    assert all(snapshot.primary_trace_clock == pb.BUILTIN_CLOCK_MONOTONIC for snapshot in snapshots)
    assert all(before[clock] < after[clock] for before, after in pairwise(clocks) for clock in before), (
        "each clock only goes forward"
    )
    metadata = json.loads(exported(story, "chrome"))["metadata"]
    assert anchor in metadata["clock"]
    assert metadata["run_id"] == story.manifest["run_id"]
    assert metadata["notes"] == []


def test_processes_have_their_ids(story: Trace) -> None:
    trace = pb.Trace()
    trace.ParseFromString(exported(story, "perfetto"))
    processes = {
        packet.track_descriptor.process.process_name: packet.track_descriptor.process.pid
        for packet in trace.packet
        if packet.track_descriptor.HasField("process")
    }
    assert processes == {"api": 100, "tokenizer-0": 101, "scheduler-0": 102, "detokenizer": 103}


def test_counters_are_those_of_the_scheduler_s_events(scheduled: Trace) -> None:
    samples = shown(scheduled).samples
    assert {name for _, name in samples} == {kind.name for kind in COUNTERS}
    of = {name: dict(values) for (_, name), values in samples.items()}
    num_steps = 0
    for entry in scheduled.events():
        if isinstance(entry.event, ev.SchedStep):
            step, ns = entry.event, entry.event.ns
            num_steps += 1
            assert of["queue length"][ns] == step.num_waiting
            assert of["batch size"][ns] == len(step.uids) // 8
            assert of["tokens a step"][ns] == ints(step.lens, "i4").sum()
            assert of["free pages"][ns] == step.num_free_pages
            assert of["free pages"][ns] + of["evictable pages"][ns] + of["locked pages"][ns] <= 64
            assert of["running"][ns] >= of["batch size"][ns]
    assert num_steps > 100
    assert max(of["cache hit rate"].values()) > 20, "prompts share their beginnings"
    assert max(of["evictable pages"].values()) > 0


def test_level_steps_has_fewer_tracks(tmp_path: Path) -> None:
    told = shown(Trace.open(SORTS["scheduled steps"](tmp_path)))
    assert {track for _, track, *_ in told.slices if not track.startswith("request ")} == {
        "scheduler-0", "device: steps with prompt chunks", "device: decode steps"
    }  # fmt: skip
    assert {name for _, name in told.samples} == {kind.name for kind in COUNTERS} - {"evictable pages", "locked pages"}


def test_things_at_once_get_lanes_of_their_own(tmp_path: Path) -> None:
    story = tell()
    story["api"][2:2] = [ev.ProcessPhase(8, "inner", 6), ev.ProcessPhase(9, "outer", 5), ev.ProcessPhase(11, "next", 9)]
    told = shown(Trace.open(write(tmp_path, story)))
    assert told.slices["api", "api", "inner", 6, 8] == 1
    assert told.slices["api", "api (2)", "outer", 5, 9] == 1
    assert told.slices["api", "api", "next", 9, 11] == 1


def test_two_processes_with_one_id_stay_apart(tmp_path: Path) -> None:
    story = tell()
    for name in ("one", "two"):  # `write` gives both the id 1
        story[name] = [ev.ProcessStarted(5, name, "api", 1, 1), ev.TraceBegin(6, "full", False), ev.ProcessEnded(9)]
    told = read_chrome(exported(Trace.open(write(tmp_path, story)), "chrome"))
    assert told.instants["one", "one", "process.ended", 9] == 1
    assert told.instants["two", "two", "process.ended", 9] == 1


@pytest.mark.parametrize("format", ["perfetto", "chrome"])
def test_text_is_shown_only_where_it_is_asked_for(spoken: Trace, format: str) -> None:
    for word in (PROMPT, *ANSWER):
        assert word.encode() not in exported(spoken, format)
        assert word.encode() in exported(spoken, format, with_text=True)


def test_texts_beyond_the_limit_are_written_out(monkeypatch: pytest.MonkeyPatch, story: Trace) -> None:
    interned = _Interned(1)
    assert [interned.find(text) for text in ("a", "a", "b")] == [(1, True), (1, False), (None, False)]
    monkeypatch.setattr("learnsgl.export.perfetto._MAX_NAMES", 3)
    assert read_perfetto(exported(story, "perfetto")).slices == read_chrome(exported(story, "chrome")).slices


def test_the_same_trace_gives_the_same_bytes(story: Trace) -> None:
    for format in ("perfetto", "chrome"):
        assert exported(story, format) == exported(story, format)
