"""The frames of a trace, found by their headers alone: which events are where, without decoding any.

`reader.py` calls this; the index of a trace of gigabytes takes seconds and little memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

from learnsgl.errors import TraceFormatError
from learnsgl.trace.clock import ClockAnchor, anchor_from_json
from learnsgl.trace.frames import HEADER, FrameHeader, FrameKind, decode_payload, parse_header
from learnsgl.trace.manifest import FORMAT
from learnsgl.trace.source import SegmentFile, Source

ALL_ROLES = "llm"
"""Role of a process that does every job by itself: the offline API, `learnsgl.llm.LLM`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame of events stands.

    Attributes:
        file: name of the segment.
        offset: of the frame's header in it.
        header: what the frame says of itself.
    """

    file: str
    offset: int
    header: FrameHeader


@dataclass(frozen=True)
class Segment:
    """One file of a process.

    Attributes:
        file: its name, index and size.
        header: the JSON object with which it begins; empty where the process was killed while it wrote that.
        frames: its frames of events, in order.
        torn_bytes: bytes at its end that are the beginning of a frame, cut off.
    """

    file: SegmentFile
    header: dict[str, Any]
    frames: tuple[Frame, ...]
    torn_bytes: int


@dataclass(frozen=True)
class ProcessIndex:
    """All files of one process.

    Attributes:
        name: the process's name in the run.
        segments: its files, in order.
    """

    name: str
    segments: tuple[Segment, ...]

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """All frames of events, in order. Made once: some checks ask at every event, and a long run has many frames."""
        return tuple(frame for segment in self.segments for frame in segment.frames)

    @cached_property
    def first(self) -> int:
        """Number of the first event that is there; 1 unless older files were dropped."""
        return next((frame.header.first for frame in self.frames), 1)

    @cached_property
    def last(self) -> int:
        """Number of the last event that is there; 0 where there is none."""
        return max((frame.header.last for frame in self.frames), default=0)

    @property
    def num_events(self) -> int:
        """Events that are there."""
        return sum(frame.header.num_events for frame in self.frames)

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(segment.file.num_bytes for segment in self.segments)

    @property
    def torn_bytes(self) -> int:
        """Bytes of frames that were cut off."""
        return sum(segment.torn_bytes for segment in self.segments)

    @property
    def num_dropped_segments(self) -> int:
        """Files before the first one, which the limit on size has removed."""
        return self.segments[0].file.index - 1

    @property
    def clock(self) -> ClockAnchor | None:
        """The newest anchor between the events' clock and wall-clock time."""
        anchors = [anchor_from_json(segment.header.get("clock")) for segment in self.segments]
        return next((anchor for anchor in reversed(anchors) if anchor is not None), None)

    def fact(self, key: str) -> Any:
        """An entry of the files' headers, such as `role`, `pid` or `level`; `None` where no header is readable."""
        return next((segment.header[key] for segment in self.segments if key in segment.header), None)

    def does(self, role: str) -> bool:
        """Whether the process did the job of a role; in the offline API one process does them all."""
        return self.fact("role") in (role, ALL_ROLES)


def index_processes(source: Source) -> dict[str, ProcessIndex]:
    """The index of every process, in the order in which a request meets them.

    Raises:
        TraceFormatError: a frame's header is broken, naming file and offset. A frame that ends early isn't an error.
    """
    files: dict[str, list[SegmentFile]] = {}
    for file in source.segments():
        files.setdefault(file.process, []).append(file)
    indexes = [
        ProcessIndex(name, tuple(index_segment(source, file) for file in listed)) for name, listed in files.items()
    ]
    return {index.name: index for index in sorted(indexes, key=_lane)}


def index_segment(source: Source, file: SegmentFile) -> Segment:
    """The index of one file.

    Raises:
        TraceFormatError: a frame's header is broken, or the file isn't the segment that its name says.
    """
    header: dict[str, Any] = {}
    frames: list[Frame] = []
    offset = 0
    with source.open(file.name) as stream:
        while offset < file.num_bytes:
            where = f"{source.path}: {file.name}, byte {offset}"
            data = stream.read(HEADER.size)
            if len(data) < HEADER.size or not any(
                data
            ):  # cut by a kill; or grown without its bytes, by a power failure
                break
            head = parse_header(data, where)
            end = offset + HEADER.size + head.payload_len
            if end > file.num_bytes:
                break
            if offset == 0:
                header = _segment_header(head, stream, file, where)
            elif head.kind == FrameKind.EVENTS:
                frames.append(Frame(file.name, offset, head))
            stream.seek(end)
            offset = end
    return Segment(file, header, tuple(frames), file.num_bytes - offset)


def _segment_header(head: FrameHeader, stream: BinaryIO, file: SegmentFile, where: str) -> dict[str, Any]:
    if head.kind != FrameKind.SEGMENT:
        raise TraceFormatError(
            f"{where}: a file begins with a frame of kind {FrameKind.SEGMENT:d}, this is {head.kind}"
        )
    try:
        header = json.loads(decode_payload(head, stream.read(head.payload_len), where))
    except ValueError as error:
        raise TraceFormatError(f"{where}: the file's header isn't JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise TraceFormatError(f"{where}: the file's header isn't that of a trace")
    said = (header.get("process"), header.get("segment"))
    if said != (file.process, file.index):
        raise TraceFormatError(f"{where}: the header says segment {said[1]} of {said[0]}; was the file renamed?")
    return header


def _lane(index: ProcessIndex) -> tuple[int, int, str]:
    roles = ("api", "tokenizer", "scheduler", "detokenizer")
    role = index.fact("role")
    rank = roles.index(role) if role in roles else len(roles)
    return rank, len(index.name), index.name  # tokenizer-9 before tokenizer-10
