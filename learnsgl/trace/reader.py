"""Reading a trace: the folder of a run, still being written or cut off, or a packed file.

Everything that looks at recordings begins here: `verify`, the command line, replay, the figures and the notebooks.
Events are decoded frame by frame as they are asked for, so a trace may be larger than memory.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Union

import msgspec

from learnsgl.errors import TraceFormatError
from learnsgl.trace.events import KINDS, Event, ProcessEnded
from learnsgl.trace.frames import HEADER, decode_payload
from learnsgl.trace.index import Frame, ProcessIndex, index_processes
from learnsgl.trace.manifest import RunState
from learnsgl.trace.source import Source, load_manifest, open_source

_ANY_EVENTS: msgspec.msgpack.Decoder[list[Event]] = msgspec.msgpack.Decoder(
    list[Union[tuple(KINDS.values())]]  # type: ignore[misc]  # noqa: UP007 - the kinds are known at run time
)
_RAW_EVENTS = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Entry(NamedTuple):
    """One recorded event.

    Attributes:
        process: name of the process that recorded it.
        number: its number in that process, from 1.
        event: the event.
    """

    process: str
    number: int
    event: Event

    @property
    def kind(self) -> str:
        """The event's kind, such as `sched.step`."""
        return kind_of(self.event)


def kind_of(event: Event) -> str:
    """An event's kind, such as `sched.step`."""
    return str(event.__struct_config__.tag)


class Trace:
    """A recording, as it stood when it was opened.

    Attributes:
        path: the run's folder or the packed file.
        manifest: what ran, on what; empty where the manifest is missing.
        unknown: how often each kind that this version doesn't know was skipped, in what was read so far.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._index = index_processes(source)
        self._last: dict[str, Entry | None] = {}
        self.path = source.path
        self.manifest: dict[str, Any] = load_manifest(source)
        self.unknown: Counter[str] = Counter()

    @classmethod
    def open(cls, path: Path | str) -> Trace:
        """Open a trace.

        Args:
            path: the folder of a run, a packed file, or a folder of runs, of which the newest is taken (compare
                `trace.path` with what you gave).

        Raises:
            FolderError: nothing is there, or it can't be read.
            TraceFormatError: it isn't a trace, or a frame's header is broken.
        """
        return cls(open_source(Path(path)))

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of the processes, in the order in which a request meets them."""
        return tuple(self._index)

    def process(self, name: str) -> ProcessIndex:
        """Files, frames, first and last number of one process.

        Raises:
            KeyError: the trace has no such process; the message lists those that it has.
        """
        if name not in self._index:
            raise KeyError(f"no process {name!r} in the trace; there are: {', '.join(self._index)}")
        return self._index[name]

    @property
    def level(self) -> str | None:
        """How much was recorded: steps, full or tokens; `None` where no file's header is readable."""
        return next((level for index in self._index.values() if (level := index.fact("level"))), None)

    @property
    def num_events(self) -> int:
        """Events of all processes."""
        return sum(index.num_events for index in self._index.values())

    @property
    def num_bytes(self) -> int:
        """Size of all files, without the manifest."""
        return sum(index.num_bytes for index in self._index.values())

    def begins_late(self, process: str) -> bool:
        """Whether the limit on size has removed the process's first events."""
        return self.process(process).first > 1

    def is_cut(self, process: str) -> bool:
        """Whether the recording stops without `process.ended`: the process was killed, or still runs."""
        last = self.last_event(process)
        return last is None or not isinstance(last.event, ProcessEnded)

    @property
    def is_stopped(self) -> bool:
        """Whether the recording was ended while the server went on; no process of it has `process.ended` then."""
        return self.manifest.get("state") == RunState.STOPPED

    def last_event(self, process: str) -> Entry | None:
        """The newest event of a process; `None` where there is none, or where it is of an unknown kind."""
        if process not in self._last:
            frames = self.process(process).frames
            numbered = self.frame_events(frames[-1]) if frames else []
            is_known = bool(numbered) and numbered[-1][0] == frames[-1].header.last
            self._last[process] = Entry(process, *numbered[-1]) if is_known else None
        return self._last[process]

    def span_ns(self) -> tuple[int, int] | None:
        """Moments of the first and the last event of the trace; `None` where it has none."""
        first = [index.frames[0].header.first_ns for index in self._index.values() if index.frames]
        last = [entry.event.ns for name in self._index if (entry := self.last_event(name)) is not None]
        return (min(first), max(last)) if first and last else None

    def events(self, process: str | None = None, *, start: int = 1) -> Iterator[Entry]:
        """Read events lazily.

        Args:
            process: of one process, in the order of their numbers; `None` merges all processes by their moments, and
                keeps each process's own order where its moments don't.
            start: with a process: first number to read; frames before it are not decoded.

        Raises:
            TraceFormatError: a frame is broken; file and offset are named. All events before it have been given.
        """
        if process is not None:
            return self._events(self.process(process), start)
        streams = [self._events(index, start) for index in self._index.values()]
        return heapq.merge(*streams, key=lambda entry: (entry.event.ns, entry.process, entry.number))

    def _events(self, index: ProcessIndex, start: int) -> Iterator[Entry]:
        for segment in index.segments:
            frames = [frame for frame in segment.frames if frame.header.last >= start]
            if not frames:
                continue
            with self._source.open(segment.file.name) as stream:
                for frame in frames:
                    for number, event in self._decode(stream, frame):
                        if number >= start:
                            yield Entry(index.name, number, event)

    def frame_events(self, frame: Frame) -> list[tuple[int, Event]]:
        """The numbers and events of one frame; those of unknown kinds are left out, and not counted in `unknown`.

        Raises:
            TraceFormatError: the frame is broken; file and offset are named.
        """
        with self._source.open(frame.file) as stream:
            return self._decode(stream, frame, count=False)

    def payloads(self, process: str, *, start: int = 1) -> Iterator[tuple[Frame, bytes]]:
        """The frames of a process from the one that holds the number `start`, each with its payload as it was encoded.

        Raises:
            TraceFormatError: a frame is broken; file and offset are named.
        """
        for segment in self.process(process).segments:
            frames = [frame for frame in segment.frames if frame.header.last >= start]
            if frames:
                with self._source.open(segment.file.name) as stream:
                    for frame in frames:
                        yield frame, read_payload(stream, frame, f"{self.path}: {frame.file}, byte {frame.offset}")

    def _decode(self, stream: BinaryIO, frame: Frame, *, count: bool = True) -> list[tuple[int, Event]]:
        where = f"{self.path}: {frame.file}, byte {frame.offset}"
        payload = read_payload(stream, frame, where)
        first = frame.header.first
        try:
            try:
                events: list[Event | str] = [*_ANY_EVENTS.decode(payload)]
            except msgspec.ValidationError:  # a kind that we don't know, or an event that is wrong
                events = [_decode_one(raw) for raw in _RAW_EVENTS.decode(payload)]
        except msgspec.MsgspecError as error:
            raise TraceFormatError(f"{where}: an event can't be decoded: {error}") from error
        if len(events) != frame.header.num_events:
            raise TraceFormatError(f"{where}: holds {len(events)} events, its header says {frame.header.num_events}")
        if count:
            self.unknown.update(event for event in events if isinstance(event, str))
        return [(first + place, event) for place, event in enumerate(events) if not isinstance(event, str)]


def read_payload(stream: BinaryIO, frame: Frame, where: str) -> bytes:
    """A frame's payload, checked and decompressed.

    Raises:
        TraceFormatError: it isn't what was written.
    """
    stream.seek(frame.offset + HEADER.size)
    return decode_payload(frame.header, stream.read(frame.header.payload_len), where)


def _decode_one(raw: msgspec.Raw) -> Event | str:
    """An event; or the name of its kind, where we don't know it."""
    fields = msgspec.msgpack.decode(raw)
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], str):
        raise msgspec.ValidationError(f"an array that begins with a kind was expected, not {fields!r:.80}")
    kind = KINDS.get(fields[0])
    return fields[0] if kind is None else msgspec.msgpack.decode(raw, type=kind)
