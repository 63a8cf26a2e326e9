"""The bytes of a file: what is written is read, a cut loses only the end, damage is never taken for data."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnsgl.errors import TraceFormatError
from learnsgl.trace import events as ev
from learnsgl.trace import frames
from learnsgl.trace.events import Event
from learnsgl.trace.frames import HEADER, FrameKind, decode_payload, encode_frame, parse_header
from learnsgl.trace.reader import Trace
from learnsgl.trace.segments import Identity, SegmentWriter
from learnsgl.trace.source import SegmentFile

ints = st.integers(-(2**63), 2**63 - 1)
any_event = st.one_of(
    st.builds(ev.CacheTouched, ints, ints, ints),
    st.builds(ev.SchedCommitted, ints, ints, ints, st.binary(), st.binary(), st.binary(), st.none() | ints),
    st.builds(ev.ReqFinished, ints, ints, st.binary(), st.binary(), st.lists(st.text()), st.binary()),
    st.builds(ev.TokText, ints, ints, st.text(max_size=300), st.binary(max_size=300)),
    st.builds(
        ev.TraceKeyframe,
        ints,
        ints,
        st.text(),
        ints,
        st.booleans(),
        ints,
        ints,
        st.dictionaries(st.text(), st.binary(), max_size=3),
    ),
)
batches = st.lists(st.lists(any_event, min_size=1, max_size=5), min_size=1, max_size=5)
places = st.integers(0, 2**32)  # modulo the size of a file, which differs a little from run to run


class BytesSource:
    """A trace of one file that lies in memory."""

    path = Path("memory")

    def __init__(self, data: bytes) -> None:
        self.data = data

    def segments(self) -> list[SegmentFile]:
        return [SegmentFile("p.1.trace", "p", 1, len(self.data))]

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.data)

    def has_manifest(self) -> bool:
        return False


def file_of(folder: Path, groups: list[list[Event]]) -> bytes:
    path = folder / "p.1.trace"
    path.unlink(missing_ok=True)
    writer = SegmentWriter(folder, Identity("run", "p", "api", 1, "full"), 1 << 30, 0)
    number = 1
    for group in groups:
        writer.write(msgspec.msgpack.encode(group), number, number + len(group) - 1, group[0].ns)
        number += len(group)
    writer.close()
    return path.read_bytes()


def read(data: bytes) -> list[Event]:
    entries = list(Trace(BytesSource(data)).events("p"))
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    return [entry.event for entry in entries]


in_folder = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # a busy machine is no fault
)


@in_folder
@given(batches)
def test_what_is_written_is_read(tmp_path: Path, groups: list[list[Event]]) -> None:
    assert read(file_of(tmp_path, groups)) == [event for group in groups for event in group]


@in_folder
@given(batches, places)
def test_a_file_cut_anywhere_holds_the_whole_frames_before_the_cut(
    tmp_path: Path, groups: list[list[Event]], place: int
) -> None:
    whole = file_of(tmp_path, groups)
    cut = place % len(whole)
    trace = Trace(BytesSource(whole[:cut]))
    kept = [frame.header.num_events for frame in trace.process("p").frames]
    assert kept == [len(group) for group in groups][: len(kept)]
    assert len(kept) < len(groups)
    assert read(whole[:cut]) == [event for group in groups[: len(kept)] for event in group]
    assert trace.is_cut("p")
    frames_end = max((f.offset + HEADER.size + f.header.payload_len for f in trace.process("p").frames), default=0)
    assert trace.process("p").torn_bytes in (cut - frames_end, 0, cut - header_frame_bytes(whole))


def header_frame_bytes(data: bytes) -> int:
    return HEADER.size + parse_header(data[: HEADER.size], "test").payload_len


@in_folder
@given(batches, places, st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path: Path, groups: list[list[Event]], place: int, mask: int) -> None:
    whole = file_of(tmp_path, groups)
    place %= len(whole)
    flipped = whole[place] ^ mask
    with pytest.raises(TraceFormatError, match="byte"):
        read(whole[:place] + bytes([flipped]) + whole[place + 1 :])


def test_zeros_at_the_end_are_a_cut(tmp_path: Path) -> None:
    whole = file_of(tmp_path, [[ev.CacheTouched(1, 2, 3)]])
    assert read(whole + bytes(4096)) == [ev.CacheTouched(1, 2, 3)]
    assert Trace(BytesSource(whole + bytes(4096))).process("p").torn_bytes == 4096


def frame(payload: bytes) -> bytes:
    return encode_frame(FrameKind.EVENTS, payload, 1, 3, 5, zstandard.ZstdCompressor())


def test_a_payload_is_compressed_only_where_that_helps() -> None:
    small, long = frame(b"abc"), frame(b"abc" * 1000)
    assert not parse_header(small[: HEADER.size], "x").compressed
    header = parse_header(long[: HEADER.size], "x")
    assert header.compressed
    assert len(long) < 200
    assert decode_payload(header, long[HEADER.size :], "x") == b"abc" * 1000


def test_a_newer_version_is_named() -> None:
    data = HEADER.pack(b"lsgT", 9, 2, 0, 0, 0, 1, 0, 0, 0)[:-4]
    with pytest.raises(TraceFormatError, match="format version 9; this learnsgl reads version 1"):
        parse_header(data + zlib.crc32(data).to_bytes(4, "little"), "x")


def test_a_payload_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = frame(b"\0" * 100_000)
    header = parse_header(data[: HEADER.size], "x")
    monkeypatch.setattr(frames, "MAX_PAYLOAD_BYTES", 10_000)
    with pytest.raises(TraceFormatError, match="claims 100000 bytes"):
        decode_payload(header, data[HEADER.size :], "x")
