"""The rules of Perfetto's and Chrome's formats, and what both hold in one form, so that they can be compared."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb


class Shown(NamedTuple):
    """What a viewer shows, by the names of tracks: what the formats have in common."""

    slices: Counter[tuple[str, str, str, int, int]]  # group, track, name, start_ns, end_ns
    instants: Counter[tuple[str, str, str, int]]
    samples: dict[tuple[str, str], list[tuple[int, float]]]
    flows: dict[int, tuple[str, str]]  # names of the slices at its ends, by the order of flows


def read_perfetto(data: bytes) -> Shown:
    """Read a trace back, and hold it to the rules of track events."""
    trace = pb.Trace()
    trace.ParseFromString(data)
    names: dict[str, dict[int, str]] = {"event_names": {}, "event_categories": {}, "debug_annotation_names": {}}
    tracks: dict[int, tuple[str, str]] = {}
    kinds: dict[int, str] = {}
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        for field, known in names.items():
            for each in getattr(packet.interned_data, field):
                assert each.iid not in known
                known[each.iid] = each.name
        if packet.HasField("track_descriptor"):
            _read_descriptor(packet.track_descriptor, tracks, kinds)
    assert trace.packet[0].sequence_flags == pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    assert trace.packet[0].trace_packet_defaults.timestamp_clock_id == pb.BUILTIN_CLOCK_MONOTONIC
    return _read_events(trace, tracks, kinds, names)


def _read_descriptor(descriptor: Any, tracks: dict[int, tuple[str, str]], kinds: dict[int, str]) -> None:
    assert descriptor.uuid not in tracks, "a track is described once"
    if descriptor.HasField("process"):
        name = descriptor.process.process_name
    else:
        name = descriptor.thread.thread_name if descriptor.HasField("thread") else descriptor.name
    assert name
    kinds[descriptor.uuid] = "counter" if descriptor.HasField("counter") else "slices"
    if descriptor.parent_uuid:
        assert descriptor.parent_uuid in tracks, "a parent is described before its children"
        tracks[descriptor.uuid] = tracks[descriptor.parent_uuid][0], name
    else:
        tracks[descriptor.uuid] = name, ""


def _read_events(trace: Any, tracks: dict[int, Any], kinds: dict[int, str], names: dict[str, dict[int, str]]) -> Shown:
    shown = Shown(Counter(), Counter(), defaultdict(list), {})
    open_slices: dict[int, list[tuple[str, int]]] = defaultdict(list)
    ends: dict[int, list[tuple[str, str]]] = defaultdict(list)
    packets = [packet for packet in trace.packet if packet.HasField("track_event")]
    for packet in sorted(packets, key=lambda packet: packet.timestamp):  # as the trace processor does
        event, ns = packet.track_event, packet.timestamp
        assert event.track_uuid in tracks, "every track is described"
        place = tracks[event.track_uuid]
        if event.type == pb.TrackEvent.TYPE_COUNTER:
            assert kinds[event.track_uuid] == "counter"
            is_float = event.HasField("double_counter_value")
            value = event.double_counter_value if is_float else event.counter_value
            shown.samples[place].append((ns, value))
            continue
        assert kinds[event.track_uuid] == "slices"
        name = event.name or names["event_names"].get(event.name_iid, "")
        if event.type == pb.TrackEvent.TYPE_SLICE_END:
            assert open_slices[event.track_uuid], "an end has its beginning"
            name, start_ns = open_slices[event.track_uuid].pop()
            shown.slices[*place, name, start_ns, ns] += 1
            continue
        assert name
        assert [names["event_categories"][iid] for iid in event.category_iids]
        assert all(names["debug_annotation_names"][each.name_iid] for each in event.debug_annotations)
        for flow in event.flow_ids:
            ends[flow].append(("out", name))
        for flow in event.terminating_flow_ids:
            ends[flow].append(("in", name))
        if event.type == pb.TrackEvent.TYPE_INSTANT:
            shown.instants[*place, name, ns] += 1
        else:
            assert event.type == pb.TrackEvent.TYPE_SLICE_BEGIN
            open_slices[event.track_uuid].append((name, ns))
    assert not any(open_slices.values()), "every beginning has its end"
    return shown._replace(flows=_checked_flows(ends))


def read_chrome(data: bytes) -> Shown:
    """Read a trace back, and hold it to the rules of the trace event format."""
    told = json.loads(data)
    assert told["displayTimeUnit"] in ("ms", "ns")
    assert isinstance(told["metadata"], dict)
    shown = Shown(Counter(), Counter(), defaultdict(list), {})
    processes: dict[int, str] = {}
    threads: dict[tuple[int, int], str] = {}
    slices: dict[tuple[int, int], list[tuple[int, int, str]]] = defaultdict(list)
    flows = []
    for event in told["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] == "M":
            _read_metadata(event, processes, threads)
            continue
        assert isinstance(event["ts"], float)
        ns = round(event["ts"] * 1e3)
        group = processes[event["pid"]]
        if event["ph"] == "C":
            (value,) = event["args"].values()
            assert isinstance(value, (int, float))
            assert "tid" not in event
            shown.samples[group, event["name"]].append((ns, value))
            continue
        assert event["cat"]
        thread = event["pid"], event["tid"]
        place = group, threads[thread]
        if event["ph"] == "i":
            assert event["s"] == "t"
            shown.instants[*place, event["name"], ns] += 1
        elif event["ph"] == "X":
            assert event["dur"] >= 0
            assert isinstance(event["args"], dict)
            end_ns = ns + round(event["dur"] * 1e3)
            slices[thread].append((ns, end_ns, event["name"]))
            shown.slices[*place, event["name"], ns, end_ns] += 1
        else:
            assert event["ph"] in ("s", "f")
            assert event["ph"] == "s" or event["bp"] == "e"
            flows.append((event["id"], {"s": "out", "f": "in"}[event["ph"]], event["name"], event["cat"], thread, ns))
    for of_thread in slices.values():
        _check_nesting(of_thread)
    ends: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for flow, way, name, category, thread, ns in flows:
        assert (name, category) == ("message", "msg"), "both ends of a flow have the same name and category"
        ends[flow].append((way, _slice_around(slices[thread], ns)))
    return shown._replace(flows=_checked_flows(ends))


def _read_metadata(event: dict[str, Any], processes: dict[int, str], threads: dict[tuple[int, int], str]) -> None:
    match event["name"]:
        case "process_name":
            assert event["pid"] not in processes
            processes[event["pid"]] = event["args"]["name"]
        case "thread_name":
            assert (event["pid"], event["tid"]) not in threads
            assert event["pid"] in processes
            threads[event["pid"], event["tid"]] = event["args"]["name"]
        case "process_sort_index" | "thread_sort_index":
            assert isinstance(event["args"]["sort_index"], int)
        case other:
            raise AssertionError(f"{other} is no metadata that viewers know")


def _check_nesting(slices: list[tuple[int, int, str]]) -> None:
    """Slices of a thread lie within each other, or apart."""
    open_ends: list[int] = []
    for start_ns, end_ns, name in sorted(slices, key=lambda each: (each[0], -each[1])):
        while open_ends and open_ends[-1] <= start_ns:
            open_ends.pop()
        assert not open_ends or end_ns <= open_ends[-1], f"{name} overlaps the slice around it"
        open_ends.append(end_ns)


def _slice_around(slices: list[tuple[int, int, str]], ns: int) -> str:
    around = [each for each in slices if each[0] <= ns <= each[1]]
    assert around, "an arrow is fastened to a slice"
    return next(each for each in around if each[0] == ns)[2]


def _checked_flows(ends: dict[int, list[tuple[str, str]]]) -> dict[int, tuple[str, str]]:
    for flow, its_ends in ends.items():
        assert sorted(way for way, _ in its_ends) == ["in", "out"], f"flow {flow} has exactly two ends"
    by_order = (dict(its_ends) for _, its_ends in sorted(ends.items()))
    return {place: (ends["out"], ends["in"]) for place, ends in enumerate(by_order)}
