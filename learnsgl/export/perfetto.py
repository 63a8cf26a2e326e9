"""Perfetto's own format: a stream of protobuf packets, written with the `perfetto` package's builder.

`formats.py` calls `write_perfetto`. Open the file at ui.perfetto.dev, which reads it in the browser and sends nothing.

Source: Perfetto's documentation, "Writing TrackEvent Protos Synthetically" and "Clock Synchronization".
"""

from __future__ import annotations

import hashlib
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb  # type: ignore[import-untyped]
from perfetto.trace_builder.proto_builder import TraceProtoBuilder  # type: ignore[import-untyped]

from learnsgl.export.output import Writable
from learnsgl.export.recording import Facts, Progress, facts_of
from learnsgl.export.telling import tell
from learnsgl.export.tracks import Args, Group, Instant, Sample, Slice, Track, TrackKind, Value
from learnsgl.trace.reader import Trace

_SEQUENCE_ID = 1
_BATCH_PACKETS = 1024
_MAX_NAMES = 50_000
"""Different names of events that are kept to be named by a number; those beyond are written out."""
_MONOTONIC = pb.BUILTIN_CLOCK_MONOTONIC
_REALTIME = pb.BUILTIN_CLOCK_REALTIME


def write_perfetto(
    trace: Trace, output: Writable, *, with_text: bool = False, progress: Progress | None = None
) -> None:
    """Write a trace as Perfetto packets.

    Timestamps are nanoseconds on the trace's own clock; snapshots tie it to wall-clock time.
    """
    writer = _Writer(output, facts_of(trace))
    for item in tell(trace, with_text=with_text, progress=progress):
        match item:
            case Slice():
                writer.slice(item)
            case Sample():
                writer.sample(item)
            case Instant():
                writer.instant(item)
            case Track():
                writer.track(item)
            case Group():
                writer.group(item)
    writer.flush()


class _Interned:
    """Texts that were written once and are named by a number since then; at most so many, where there is a limit."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._numbers: dict[str, int] = {}

    def find(self, text: str) -> tuple[int | None, bool]:
        """The text's number (`None`: write it out), and whether that number is new."""
        number = self._numbers.get(text)
        if number is not None:
            return number, False
        if self._limit is not None and len(self._numbers) >= self._limit:
            return None, False
        number = self._numbers[text] = len(self._numbers) + 1
        return number, True


class _Writer:
    def __init__(self, output: Writable, facts: Facts) -> None:
        self._output = output
        self._builder = TraceProtoBuilder()
        self._num_packets = 0
        seed = hashlib.blake2b(facts.run_id.encode(), digest_size=4).digest()
        self._base = int.from_bytes(seed, "little") << 31
        """Uuids of two runs differ, so that their files can be joined."""
        self._names, self._categories, self._arg_names = _Interned(_MAX_NAMES), _Interned(), _Interned()
        self._begin(facts)

    # ------------------------------------------------------------ packets

    def _packet(self) -> Any:
        if self._num_packets >= _BATCH_PACKETS:
            self.flush()
        self._num_packets += 1
        packet = self._builder.add_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE_ID
        packet.sequence_flags = pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        return packet

    def flush(self) -> None:
        """Write what was gathered; traces that follow each other in a file are one trace."""
        self._output.write(self._builder.serialize())
        self._builder = TraceProtoBuilder()
        self._num_packets = 0

    def _begin(self, facts: Facts) -> None:
        first = self._packet()
        first.sequence_flags = pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        first.trace_packet_defaults.timestamp_clock_id = _MONOTONIC
        for anchor in facts.anchors:
            packet = self._packet()
            packet.timestamp = anchor.monotonic_ns
            snapshot = packet.clock_snapshot
            snapshot.primary_trace_clock = _MONOTONIC
            snapshot.clocks.add(clock_id=_MONOTONIC, timestamp=anchor.monotonic_ns)
            snapshot.clocks.add(clock_id=_REALTIME, timestamp=anchor.time_ns)

    # ------------------------------------------------------------ descriptors

    def group(self, group: Group) -> None:
        descriptor = self._packet().track_descriptor
        descriptor.uuid = self._base + group.id
        descriptor.sibling_order_rank = group.rank
        if group.is_process:
            descriptor.process.pid = group.pid
            descriptor.process.process_name = group.name
            descriptor.child_ordering = pb.TrackDescriptor.EXPLICIT
        else:
            descriptor.name = group.name
            descriptor.child_ordering = pb.TrackDescriptor.CHRONOLOGICAL

    def track(self, track: Track) -> None:
        descriptor = self._packet().track_descriptor
        descriptor.uuid = self._base + track.id
        descriptor.parent_uuid = self._base + track.group.id
        descriptor.sibling_order_rank = track.rank
        if track.kind is TrackKind.THREAD:
            descriptor.thread.pid = descriptor.thread.tid = track.group.pid
            descriptor.thread.thread_name = track.name
            return
        descriptor.name = track.name
        if track.kind is TrackKind.COUNTER:
            descriptor.counter.unit_name = track.unit
            descriptor.counter.y_axis_share_key = track.unit

    # ------------------------------------------------------------ events

    def slice(self, item: Slice) -> None:
        event = self._event(item.track, item.start_ns, pb.TrackEvent.TYPE_SLICE_BEGIN, item.name, item.category)
        self._annotate(*event, item.args)
        if item.flow_out is not None:
            event[1].flow_ids.append(self._base + item.flow_out)
        if item.flow_in is not None:
            event[1].terminating_flow_ids.append(self._base + item.flow_in)
        for child in item.children:
            self.slice(child)
        packet = self._packet()
        packet.timestamp = item.end_ns
        packet.track_event.type = pb.TrackEvent.TYPE_SLICE_END
        packet.track_event.track_uuid = self._base + item.track.id

    def instant(self, item: Instant) -> None:
        event = self._event(item.track, item.ns, pb.TrackEvent.TYPE_INSTANT, item.name, item.category)
        self._annotate(*event, item.args)

    def sample(self, item: Sample) -> None:
        packet = self._packet()
        packet.timestamp = item.ns
        event = packet.track_event
        event.type = pb.TrackEvent.TYPE_COUNTER
        event.track_uuid = self._base + item.track.id
        if isinstance(item.value, float):
            event.double_counter_value = item.value
        else:
            event.counter_value = item.value

    def _event(self, track: Track, ns: int, kind: int, name: str, category: str) -> tuple[Any, Any]:
        """A packet with an event in it, and the event."""
        packet = self._packet()
        packet.timestamp = ns
        event = packet.track_event
        event.type = kind
        event.track_uuid = self._base + track.id
        number, is_new = self._names.find(name)
        if number is None:
            event.name = name
        else:
            event.name_iid = number
        if is_new:
            packet.interned_data.event_names.add(iid=number, name=name)
        number, is_new = self._categories.find(category)
        event.category_iids.append(number)
        if is_new:
            packet.interned_data.event_categories.add(iid=number, name=category)
        return packet, event

    def _annotate(self, packet: Any, event: Any, args: Args) -> None:
        for name, value in args.items():
            number, is_new = self._arg_names.find(name)
            annotation = event.debug_annotations.add(name_iid=number)
            _set_value(annotation, value)
            if is_new:
                packet.interned_data.debug_annotation_names.add(iid=number, name=name)


def _set_value(annotation: Any, value: Value) -> None:
    if isinstance(value, bool):
        annotation.bool_value = value
    elif isinstance(value, int):
        annotation.int_value = value
    elif isinstance(value, float):
        annotation.double_value = value
    else:
        annotation.string_value = value
