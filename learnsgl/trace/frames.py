"""The bytes of a trace file: frames, each a fixed header and a payload, that can be checked and skipped one by one.

`segments.py` writes them and `reader.py` reads them; `docs/trace-events.md` describes them for other languages.
A frame that ends early is what a killed process leaves behind; a frame that is whole but wrong is a broken file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import zstandard

from learnsgl.errors import TraceFormatError

MAGIC = b"lsgT"
FORMAT_VERSION = 1
HEADER = struct.Struct("<4sHBBIIQQqI")
"""Magic, version, kind, flags, payload length, payload CRC32, first number, last number, first ns, header CRC32."""
COMPRESSED = 1
"""Flag: the payload is a zstd frame that states its content size."""
MAX_PAYLOAD_BYTES = 1 << 30
"""Neither a payload nor what it decompresses to is larger, so a broken length can't ask for all memory."""
_CRC = struct.Struct("<I")
_WORTH_COMPRESSING = 128


class FrameKind(IntEnum):
    """What a frame's payload is. A reader skips kinds that it doesn't know."""

    SEGMENT = 1
    """The header of the file: a JSON object. The first frame of each file."""
    EVENTS = 2
    """A MessagePack array of events."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame says about itself, readable without its payload.

    Attributes:
        kind: a `FrameKind`, or a number that a later version uses.
        compressed: whether the payload is zstd.
        payload_len: bytes of the payload, as stored.
        payload_crc: CRC32 of the payload, as stored.
        first, last: numbers of its first and last event; a frame without events has `last == first - 1`.
        first_ns: moment of its first event.
    """

    kind: int
    compressed: bool
    payload_len: int
    payload_crc: int
    first: int
    last: int
    first_ns: int

    @property
    def num_events(self) -> int:
        """Events in the payload."""
        return self.last - self.first + 1


def encode_frame(
    kind: FrameKind, payload: bytes, first: int, last: int, first_ns: int, compressor: zstandard.ZstdCompressor
) -> bytes:
    """One frame, ready for a single write; the payload is compressed where that makes it smaller."""
    flags = 0
    if len(payload) >= _WORTH_COMPRESSING:
        smaller = compressor.compress(payload)
        if len(smaller) < len(payload):
            payload, flags = smaller, COMPRESSED
    crc = zlib.crc32(payload)
    head = HEADER.pack(MAGIC, FORMAT_VERSION, kind, flags, len(payload), crc, first, last, first_ns, 0)[: -_CRC.size]
    return head + _CRC.pack(zlib.crc32(head)) + payload


def parse_header(data: bytes, where: str) -> FrameHeader:
    """Read a frame's header.

    Args:
        data: the `HEADER.size` bytes.
        where: file and offset, for the message.

    Raises:
        TraceFormatError: not a frame, a broken header, or a version that this reader doesn't know.
    """
    magic, version, kind, flags, payload_len, payload_crc, first, last, first_ns, crc = HEADER.unpack(data)
    if magic != MAGIC:
        raise TraceFormatError(f"{where}: no frame begins here (found {magic!r}, expected {MAGIC!r})")
    if zlib.crc32(data[: -_CRC.size]) != crc:
        raise TraceFormatError(f"{where}: the frame's header is damaged (its CRC32 differs)")
    if version != FORMAT_VERSION:
        raise TraceFormatError(
            f"{where}: format version {version}; this learnsgl reads version {FORMAT_VERSION}: use a newer one"
        )
    if payload_len > MAX_PAYLOAD_BYTES or last < first - 1:
        raise TraceFormatError(f"{where}: impossible frame: {payload_len} bytes, events {first} to {last}")
    return FrameHeader(kind, bool(flags & COMPRESSED), payload_len, payload_crc, first, last, first_ns)


def decode_payload(header: FrameHeader, data: bytes, where: str) -> bytes:
    """Check a payload's CRC32 and decompress it.

    Raises:
        TraceFormatError: the payload isn't what was written.
    """
    if zlib.crc32(data) != header.payload_crc:
        raise TraceFormatError(f"{where}: the frame's payload is damaged (its CRC32 differs)")
    if not header.compressed:
        return data
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_PAYLOAD_BYTES:
            raise TraceFormatError(f"{where}: the payload claims {size} bytes; at most {MAX_PAYLOAD_BYTES} are read")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise TraceFormatError(f"{where}: the payload can't be decompressed: {error}") from error
