"""What lesson 1.5, "ZMQ messages", asks of its readers, and the view of a message's bytes that it shows them.

Its notebook calls the checks and `explain`. The envelopes that a recording tells of are made again by `envelopes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from learnsgl.lessons.checks import NotAttempted, NotYet, attempt, check
from learnsgl.message.codec import Envelope, encode_envelope
from learnsgl.trace import events
from learnsgl.trace.reader import Trace

Decoder = Callable[[bytes, int], tuple[Any, int]]

SHOWN_BYTES = 12
"""Of a longer piece, so many bytes are shown."""
_OFFSET = 5
"""Values are given to a reader's function at this place, behind bytes that aren't theirs."""


def envelopes(trace: Trace) -> list[bytes]:
    """The first frame of every message in a recording, byte for byte as it was sent.

    Args:
        trace: a recording of level full; the events `msg.sent` hold all that an envelope does.

    Returns:
        Frames in the order in which they were sent; none for a recording without messages.
    """
    return [
        encode_envelope(Envelope(entry.process, entry.event.channel, entry.event.number, entry.event.ns))
        for entry in trace.events()
        if isinstance(entry.event, events.MsgSent)
    ]


# ---------------------------------------------------------------- bytes, explained


class Piece(NamedTuple):
    """Bytes that say one thing.

    Attributes:
        at: place of the first one.
        data: the bytes.
        depth: how many arrays and maps it lies in.
        meaning: what they say.
    """

    at: int
    data: bytes
    depth: int
    meaning: str


_WITH_LENGTH = {
    0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4),
    0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
"""First byte: what follows, and the number of bytes that its length takes. Source: the MessagePack specification."""
_FIXED = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5}
_FIXED[0xD3] = 9


def pieces(data: bytes) -> list[Piece]:
    """What each byte of MessagePack says.

    Args:
        data: one encoded value of the kinds that our messages are made of: no extension types.

    Returns:
        Pieces in order; their bytes together are `data`.

    Raises:
        ValueError: it isn't one whole value of these kinds; the message names the place.
    """
    found, stop = [], 0
    for piece in _walk(data, 0, 0):
        found.append(piece)
        stop = piece.at + len(piece.data)
    if stop != len(data):
        raise ValueError(f"one value ends at byte {stop}, and {len(data) - stop} more follow")
    return found


def _walk(data: bytes, at: int, depth: int) -> Iterator[Piece]:
    """The pieces of the value that begins at a place."""
    what, num_head, length = _head(data, at)
    stop = at + num_head + (length if what in ("text", "bytes") else 0)
    if stop > len(data):
        raise ValueError(f"byte {at} begins a value of {stop - at} bytes, and only {len(data) - at} are left")
    taken = data[at:stop]
    if what in ("array", "map"):
        unit = "pair" if what == "map" else "value"
        yield Piece(at, taken, depth, f"{what} of {length} {unit}{'' if length == 1 else 's'}")
        for _ in range(length * (2 if what == "map" else 1)):
            piece = None
            for piece in _walk(data, stop, depth + 1):
                yield piece
            assert piece is not None, "a value has at least one piece"
            stop = piece.at + len(piece.data)
    elif what == "bytes":
        yield Piece(at, taken, depth, f"{length} bytes: {_shown(taken[num_head:])}")
    elif what == "text":
        yield Piece(at, taken, depth, f"text of {length}: {taken[num_head:].decode()!r}")
    else:
        yield Piece(at, taken, depth, str(msgspec.msgpack.decode(taken)))


def _head(data: bytes, at: int) -> tuple[str, int, int]:
    """What begins at a place; the bytes before its content; and how much content follows."""
    if at >= len(data):
        raise ValueError(f"a value is missing at byte {at}, where the data ends")
    first = data[at]
    if first <= 0x7F or first >= 0xE0:
        return "number", 1, 0
    if first <= 0xBF:
        kind, mask = ("map", 0x0F) if first <= 0x8F else ("array", 0x0F) if first <= 0x9F else ("text", 0x1F)
        return kind, 1, first & mask
    if first in _FIXED:
        return "scalar", _FIXED[first], 0
    if first not in _WITH_LENGTH:
        raise ValueError(f"byte {at} is {first:#04x}, which begins nothing that our messages are made of")
    kind, width = _WITH_LENGTH[first]
    return kind, 1 + width, int.from_bytes(data[at + 1 : at + 1 + width], "big")


def explain(data: bytes) -> str:
    """A line for each piece: its place, its bytes in hex, and what they say; indented within arrays and maps."""
    found = pieces(data)
    width = max(len(_shown(piece.data)) for piece in found)
    return "\n".join(
        f"{piece.at:4}  {_shown(piece.data):{width}}  {'  ' * piece.depth}{piece.meaning}" for piece in found
    )


def _shown(data: bytes) -> str:
    return data[:SHOWN_BYTES].hex(" ") + (" .." if len(data) > SHOWN_BYTES else "")


# ---------------------------------------------------------------- the exercise

CASES: tuple[tuple[str, bytes], ...] = (
    ("a short text", msgspec.msgpack.encode("api")),
    ("a text with a letter of two bytes", msgspec.msgpack.encode("für")),
    ("a text of 40 bytes", msgspec.msgpack.encode("tokenizer-" * 4)),
    ("None", msgspec.msgpack.encode(None)),
    ("False", msgspec.msgpack.encode(False)),
    ("True", msgspec.msgpack.encode(True)),
    ("a number of one byte", msgspec.msgpack.encode(200)),
    ("a number of two bytes", msgspec.msgpack.encode(4660)),
    ("a number of four bytes", msgspec.msgpack.encode(305_419_896)),
    ("a number of eight bytes", msgspec.msgpack.encode(13_193_408_593_393)),
    ("a small number", msgspec.msgpack.encode(7)),
    ("an array of arrays", msgspec.msgpack.encode([[1, "a"], [], None])),
)
"""What a reader's function is tried on, from easy to hard, before the envelopes."""
_NUM_ASKED = 10
"""The stub decodes only those after these."""


@check
def check_decoder(function: Decoder, frames: Sequence[bytes]) -> str:
    """Whether a function decodes MessagePack: texts, unsigned numbers, None, booleans and arrays.

    Args:
        function: the reader's; given data and a place, it returns the value there and the place after it.
        frames: real envelopes, which it must decode as msgspec does.
    """
    if callable(function) and all(_is_left_out(function, data) for _, data in CASES[:_NUM_ASKED]):
        raise NotAttempted
    for name, data in CASES:
        _examine(function, name, data)
    for frame in frames:
        _examine(function, "an envelope", frame)
    return f"it reads all {len(frames)} envelopes of the recording as msgspec does"


def _is_left_out(function: Decoder, data: bytes) -> bool:
    try:
        attempt(function, data, 0)
    except NotAttempted:
        return True
    except NotYet:
        return False
    return False


def _examine(function: Decoder, name: str, data: bytes) -> None:
    """Try one value, in the midst of other bytes."""
    shown = f"{name} ({_shown(data)})"
    try:
        answer = attempt(function, b"\xc1" * _OFFSET + data + b"\xc1", _OFFSET)
    except NotAttempted:
        raise NotYet(f"nothing comes back yet for {shown}; look its first byte up in the table") from None
    except NotYet as problem:
        raise NotYet(f"at {shown}, {problem}") from None
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise NotYet(f"two things are expected for {shown}, the value and the place after it; it gave {answer!r}")
    value, stop = answer
    truth = msgspec.msgpack.decode(data)
    if hint := _hint(value, truth):
        raise NotYet(f"for {shown} it gave {value!r}: {hint}")
    if stop != _OFFSET + len(data):
        raise NotYet(
            f"for {shown} the value is right, and the place after it isn't: it begins at {_OFFSET} and takes "
            f"{len(data)} bytes, and your function says that the next one begins at {stop}"
        )


def _hint(value: Any, truth: Any) -> str | None:
    """What is wrong with a value; `None` for the right one. `1` isn't `True`, so the text forms are compared."""
    if repr(value) == repr(truth):
        return None
    if isinstance(value, (bytes, bytearray)):
        return "bytes, where a text is meant; MessagePack writes texts in UTF-8"
    if isinstance(truth, int) and isinstance(value, int) and not isinstance(truth, bool):
        sizes = [size for size in (2, 4, 8) if truth < 256**size]
        if any(value == int.from_bytes(truth.to_bytes(size, "big"), "little") for size in sizes):
            return "its bytes are read from the wrong end"
    if isinstance(truth, list) and isinstance(value, tuple):
        return "an array becomes a list"
    return f"msgspec reads {truth!r}"
