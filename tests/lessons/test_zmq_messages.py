"""Lesson 1.5: its check with right answers, wrong ones and the stub; and the view of a message's bytes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from learnsgl.core import FinishReason, SamplingParams
from learnsgl.lessons.checks import Outcome
from learnsgl.lessons.zmq_messages import CASES, check_decoder, envelopes, explain, pieces
from learnsgl.message.codec import decode_envelope, encode_messages
from learnsgl.message.types import AbortMsg, Delta, DetokenizeMsg, Ending, TokenizeMsg, UserMsg, UserReply
from learnsgl.trace.reader import Trace

RECORDING = Path(__file__).parents[2] / "traces" / "chat_concurrent.trace.zip"
WIDTHS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
SCALARS = {0xC0: None, 0xC2: False, 0xC3: True}


@pytest.fixture(scope="module")
def frames():
    return envelopes(Trace.open(RECORDING))


def stub(data, at=0):
    """The notebook's."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    if 0x90 <= first <= 0x9F:
        values, at = [], at + 1
        for _ in range(first & 0x0F):
            value, at = stub(data, at)
            values.append(value)
        return values, at
    return ...


def make(texts=True, scalars=True, numbers=True, *, order="big", as_text=bytes.decode, array=list, head=2):
    """A right decoder, and wrong ones: with a branch left out, or one thing in it wrong."""

    def decode(data, at=0):
        first = data[at]
        if first < 0x80:
            return first, at + 1
        if 0x90 <= first <= 0x9F:
            values, at = [], at + 1
            for _ in range(first & 0x0F):
                value, at = decode(data, at)
                values.append(value)
            return array(values), at
        if texts and 0xA0 <= first <= 0xBF:
            stop = at + 1 + (first & 0x1F)
            return as_text(data[at + 1 : stop]), stop
        if texts and first == 0xD9:
            stop = at + 2 + data[at + 1]
            return as_text(data[at + 2 : stop]), at + head + data[at + 1]
        if scalars and first in SCALARS:
            return SCALARS[first], at + 1
        if numbers and first in WIDTHS:
            stop = at + 1 + WIDTHS[first]
            return int.from_bytes(data[at + 1 : stop], order), stop
        return ...

    return decode


def test_the_envelopes_are_those_of_the_recording(frames):
    sent = [entry for entry in Trace.open(RECORDING).events() if entry.kind == "msg.sent"]
    assert len(frames) == len(sent) > 200
    for frame, entry in zip(frames, sent, strict=True):
        event = entry.event
        expected = (entry.process, event.channel, event.number, event.ns)
        assert msgspec.structs.astuple(decode_envelope(frame)) == expected


def test_a_right_decoder_is_right(frames):
    result = check_decoder(make(), frames)
    assert result.outcome is Outcome.RIGHT
    assert f"all {len(frames)} envelopes" in result.message


def test_the_untouched_stub_is_not_attempted(frames):
    assert check_decoder(stub, frames).outcome is Outcome.NOT_ATTEMPTED
    assert check_decoder(..., frames).outcome is Outcome.NOT_ATTEMPTED


def one_based(data, at=0):
    value, stop = make()(data, at)
    return value, stop - at


def only_the_value(data, at=0):
    return make()(data, at)[0]


def without_the_place(data, at=0):
    return make()(data, 0)


@pytest.mark.parametrize(
    ("decode", "hint"),
    [
        (make(texts=False), "nothing comes back yet for a short text (a3 61 70 69)"),
        (make(scalars=False), "nothing comes back yet for None (c0)"),
        (make(numbers=False), "nothing comes back yet for a number of one byte (cc c8)"),
        (make(as_text=bytes), "MessagePack writes texts in UTF-8"),
        (make(as_text=lambda data: data.decode("latin-1")), "msgspec reads 'für'"),
        (make(order="little"), "from the wrong end"),
        (make(array=tuple), "an array becomes a list"),
        (make(head=1), "the value is right, and the place after it isn't"),
        (one_based, "the next one begins at 4"),
        (only_the_value, "two things are expected"),
        (without_the_place, "nothing comes back yet for a short text"),
        (lambda data, at=0: data[99], "raised IndexError"),
        (lambda data, at=0: (1, at + 1), "msgspec reads 'api'"),
        ("decode", "a function is expected"),
    ],
)
def test_a_wrong_decoder_gets_the_hint_that_fits(decode, hint, frames):
    result = check_decoder(decode, frames)
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


def test_one_is_not_true(frames):
    scalars = dict(SCALARS)
    scalars[0xC3] = 1

    def decode(data, at=0):
        return (scalars[data[at]], at + 1) if data[at] in scalars else make()(data, at)

    assert "for True (c3) it gave 1" in check_decoder(decode, frames).message


def test_the_cases_need_each_type_of_the_table():
    firsts = {data[0] for _, data in CASES}
    assert firsts >= {0xD9, 0xC0, 0xC2, 0xC3, 0xCC, 0xCD, 0xCE, 0xCF}


MESSAGES = [
    TokenizeMsg(
        300, SamplingParams(temperature=0.5, stop=("a",), seed=-5), messages=[{"role": "user", "content": "ä"}]
    ),
    TokenizeMsg(70_000, SamplingParams(), text="long " * 60),
    UserMsg(1, np.arange(100, dtype="<i4").tobytes(), SamplingParams(logit_bias={3: -1.5})),
    AbortMsg(1, 0, FinishReason.STOP, 7),
    DetokenizeMsg(5, [], bytes(16), bytes(8), bytes(8), endings=[Ending(2, 0, FinishReason.LENGTH)]),
    UserReply([Delta(uid, text=" Paris", num_tokens=1) for uid in range(20)]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_byte_of_a_message_is_explained_once(message):
    data = encode_messages([message])
    found = pieces(data)
    assert b"".join(piece.data for piece in found) == data
    assert [piece.at for piece in found] == np.cumsum([0, *(len(piece.data) for piece in found[:-1])]).tolist()
    assert found[0].meaning == "array of 1 value"
    assert {piece.depth for piece in found} >= {0, 1, 2}
    assert len(explain(data).splitlines()) == len(found)


def test_what_the_bytes_say():
    data = msgspec.msgpack.encode([None, True, -3, 200, 1.5, "für", b"\x01\x02", {"a": []}, 2**40, -70_000])
    assert [(piece.depth, piece.meaning) for piece in pieces(data)] == [
        (0, "array of 10 values"), (1, "None"), (1, "True"), (1, "-3"), (1, "200"), (1, "1.5"), (1, "text of 4: 'für'"),
        (1, "2 bytes: 01 02"), (1, "map of 1 pair"), (2, "text of 1: 'a'"), (2, "array of 0 values"),
        (1, "1099511627776"), (1, "-70000"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "a value is missing at byte 0"),
        (b"\x92\x01", "a value is missing at byte 2"),
        (b"\xa5ab", "byte 0 begins a value of 6 bytes, and only 3 are left"),
        (b"\xcf\x00", "byte 0 begins a value of 9 bytes"),
        (b"\x01\x02", "one value ends at byte 1, and 1 more follow"),
        (b"\x91\xc1", "byte 1 is 0xc1"),
    ],
)
def test_what_is_not_one_whole_value_is_refused(data, problem):
    with pytest.raises(ValueError, match=problem):
        pieces(data)


def test_long_pieces_are_cut_where_they_are_shown():
    (line,) = explain(msgspec.msgpack.encode(bytes(range(200)))).splitlines()
    assert line == "   0  c4 c8 00 01 02 03 04 05 06 07 08 09 ..  200 bytes: 00 01 02 03 04 05 06 07 08 09 0a 0b .."
