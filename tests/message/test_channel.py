"""The channels: what is sent arrives, in order and paired in the trace; what is broken is skipped and recorded."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from learnsgl.core import FinishReason, SamplingParams
from learnsgl.errors import FolderError, MessageError
from learnsgl.message import codec, sockets
from learnsgl.message.channel import AsyncRecvChannel, RecvChannel, SendChannel
from learnsgl.message.codec import MAX_MESSAGE_BYTES, Envelope, MessageDecoder, encode_envelope, encode_messages
from learnsgl.message.mailbox import STOP_WORD, Mailbox, ParentGone
from learnsgl.message.sockets import channel_address, make_socket_folder, remove_socket_folder
from learnsgl.message.types import (
    AbortMsg,
    Accepted,
    CallReply,
    Delta,
    DetokenizeMsg,
    Ending,
    ErrorInfo,
    FlushCacheMsg,
    LogprobsMsg,
    Message,
    PromptLogprobsMsg,
    TextCallMsg,
    TokenizeMsg,
    UserMsg,
    UserReply,
)
from learnsgl.trace import events
from learnsgl.trace.recorder import MemoryRecorder


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        yield context


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = make_socket_folder()
    yield folder
    remove_socket_folder(folder)
    assert not folder.exists()


def user(uid: int, num_tokens: int = 3) -> UserMsg:
    return UserMsg(uid, np.arange(num_tokens, dtype="<i4").tobytes(), SamplingParams())


def until(take: Callable[[], list[Message]], count: int) -> list[Message]:
    """Take from a channel until so many messages are there."""
    taken: list[Message] = []
    deadline = time.monotonic() + 10
    while len(taken) < count:
        assert time.monotonic() < deadline, f"{len(taken)} of {count} messages arrived"
        taken += take()
        time.sleep(0.002)
    return taken


def of_kind(recorder: MemoryRecorder, kind: type) -> list[Any]:
    return [event for event in recorder.events if isinstance(event, kind)]


MESSAGES: dict[str, list[Message]] = {
    "tokenizer-0": [
        TokenizeMsg(1, SamplingParams(temperature=0.5, stop=("a", "b")), messages=[{"role": "user", "content": "ä"}]),
        TokenizeMsg(2, SamplingParams(), text="b"),
        TokenizeMsg(3, SamplingParams(seed=-5), input_ids=[1, 2]),
        AbortMsg(1),
        TextCallMsg(9, token_ids=[1, 2], special_tokens=False),
        FlushCacheMsg(4),
    ],
    "scheduler": [user(1), AbortMsg(1, 0, FinishReason.STOP, 7), FlushCacheMsg(4)],
    "detokenizer": [
        DetokenizeMsg(
            5, [Accepted(1, 3, SamplingParams(stop=("x",)))],
            np.array([1, 2], "<i8").tobytes(), bytes(8), bytes(8), b"\0\1",
            [Ending(2, 0, FinishReason.ERROR, 3, 0, 1, ErrorInfo("no", 500, "engine_error"))],
        ),
        DetokenizeMsg(),
    ],
    "api": [
        UserReply([Delta(1, 0, True, "text", 1), Delta(2, ending=Ending(2, 0, FinishReason.STOP))]),
        UserReply([], [CallReply(9, "text"), CallReply(4, error=ErrorInfo("busy"))]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("channel", MESSAGES)
def test_every_kind_arrives_as_it_was_sent(context: zmq.Context[Any], folder: Path, channel: str) -> None:
    sent, received = MemoryRecorder(), MemoryRecorder()
    receiver = RecvChannel(context, folder, channel, recorder=received)
    sender = SendChannel(context, folder, channel, sender="me", recorder=sent)
    for message in MESSAGES[channel]:
        sender.send([message])
    sender.send(MESSAGES[channel])
    assert until(receiver.take, 2 * len(MESSAGES[channel])) == MESSAGES[channel] * 2
    out, arrived = of_kind(sent, events.MsgSent), of_kind(received, events.MsgReceived)
    assert [event.number for event in out] == list(range(1, len(MESSAGES[channel]) + 2))
    assert [(e.channel, e.number, e.ns, e.num_bytes) for e in out] == [
        (e.channel, e.number, e.sent_ns, e.num_bytes) for e in arrived
    ]
    assert {event.sender for event in arrived} == {"me"}
    assert all(event.ns >= event.sent_ns for event in arrived)
    sender.close()
    receiver.close()


def test_the_event_names_kinds_and_requests(context: zmq.Context[Any], folder: Path) -> None:
    recorder = MemoryRecorder()
    receiver = RecvChannel(context, folder, "scheduler", recorder=MemoryRecorder())
    sender = SendChannel(context, folder, "scheduler", sender="me", recorder=recorder)
    sender.send([user(4), user(2), AbortMsg(4)])
    (event,) = of_kind(recorder, events.MsgSent)
    assert event.kinds == "UserMsg*2, AbortMsg"
    assert np.frombuffer(event.uids, "<i8").tolist() == [4, 2]
    sender.send([])
    assert len(recorder.events) == 1, "nothing is sent for nothing"
    sender.close()
    receiver.close()


def test_uids_of_a_step() -> None:
    assert np.frombuffer(codec.uids_of(MESSAGES["detokenizer"][:1]), "<i8").tolist() == [1, 2]
    step = DetokenizeMsg(5, [], np.array([9], "<i8").tobytes(), bytes(4), bytes(4))
    assert codec.uids_of([step]) == step.uids
    assert np.frombuffer(codec.uids_of(MESSAGES["api"]), "<i8").tolist() == [1, 2]


def test_senders_number_their_messages_by_themselves(context: zmq.Context[Any], folder: Path) -> None:
    recorder = MemoryRecorder()
    receiver = RecvChannel(context, folder, "scheduler", recorder=recorder)
    senders = [SendChannel(context, folder, "scheduler", sender=name, recorder=MemoryRecorder()) for name in ("a", "b")]
    for uid in range(1, 51):
        senders[uid % 2].send([user(uid)])
    taken = until(receiver.take, 50)
    for parity, name in ((0, "a"), (1, "b")):
        uids = [message.uid for message in taken if isinstance(message, UserMsg) and message.uid % 2 == parity]
        assert uids == sorted(uids), "one sender's messages stay in order"
        numbers = [event.number for event in of_kind(recorder, events.MsgReceived) if event.sender == name]
        assert numbers == list(range(1, 26))
    for channel in (*senders, receiver):
        channel.close()


def envelope(channel: str = "scheduler") -> bytes:
    return encode_envelope(Envelope("stranger", channel, 1, 5))


BROKEN = {
    "one frame": [envelope()],
    "three frames": [envelope(), encode_messages([user(1)]), b""],
    "an envelope that isn't one": [b"\xc1", encode_messages([user(1)])],
    "an envelope of wrong types": [msgspec.msgpack.encode([1, 2, 3, 4]), encode_messages([user(1)])],
    "another channel's envelope": [envelope("api"), encode_messages([user(1)])],
    "noise": [envelope(), b"\x00\xff noise"],
    "an empty payload": [envelope(), b""],
    "a kind of another channel": [envelope(), encode_messages([DetokenizeMsg()])],
    "an unknown kind": [envelope(), msgspec.msgpack.encode([{"type": "EvilMsg", "uid": 1}])],
    "no list": [envelope(), msgspec.msgpack.encode({"type": "AbortMsg", "uid": 1})],
    "half a token": [envelope(), encode_messages([UserMsg(1, b"12345", SamplingParams())])],
    "no token": [envelope(), encode_messages([UserMsg(1, b"", SamplingParams())])],
    "a value out of range": [
        envelope(),
        encode_messages([user(1)]).replace(b"sampling\xde\0\0", b"sampling\x81\xa5top_k\0"),
    ],
    "too deep": [envelope(), b"\x91" * 100_000],
    "too large": [envelope(), bytes(MAX_MESSAGE_BYTES + 1)],
}


@pytest.mark.parametrize("frames", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_message_is_skipped_and_recorded(
    context: zmq.Context[Any], folder: Path, frames: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = MemoryRecorder()
    receiver = RecvChannel(context, folder, "scheduler", recorder=recorder)
    stranger = context.socket(zmq.PUSH)
    stranger.connect(channel_address(folder, "scheduler"))
    stranger.send_multipart(frames)
    stranger.send_multipart([envelope(), encode_messages([user(2)])])
    assert until(receiver.take, 1) == [user(2)], "the next message still arrives"
    assert receiver.num_rejected == 1
    (rejected,) = of_kind(recorder, events.MsgRejected)
    assert rejected.num_bytes == sum(map(len, frames[1:]))
    assert "is skipped" in caplog.text
    stranger.close(0)
    receiver.close()


def test_a_gap_in_a_sender_s_numbers_is_an_error(context: zmq.Context[Any], folder: Path) -> None:
    recorder = MemoryRecorder()
    receiver = RecvChannel(context, folder, "scheduler", recorder=recorder)
    sender = context.socket(zmq.PUSH)
    sender.connect(channel_address(folder, "scheduler"))

    def send(number: int, payload: bytes) -> None:
        sender.send_multipart([encode_envelope(Envelope("tokenizer-0", "scheduler", number, 5)), payload])

    send(1, encode_messages([user(1)]))
    send(2, encode_messages([user(2)]))
    assert until(receiver.take, 2) == [user(1), user(2)]
    send(4, encode_messages([user(4)]))
    with pytest.raises(MessageError, match=r"from tokenizer-0 is lost: it is number 4, .* before it was 2"):
        until(receiver.take, 1)
    send(3, b"\x91")
    with pytest.raises(MessageError, match="from tokenizer-0 is lost: the payload can't be decoded"):
        until(receiver.take, 1)
    assert [event.number for event in of_kind(recorder, events.MsgRejected)] == [4, 3]
    sender.close(0)
    receiver.close()


def test_the_first_message_of_a_sender_can_be_lost_too(context: zmq.Context[Any], folder: Path) -> None:
    receiver = RecvChannel(context, folder, "scheduler", recorder=MemoryRecorder())
    sender = context.socket(zmq.PUSH)
    sender.connect(channel_address(folder, "scheduler"))
    second = encode_envelope(Envelope("tokenizer-0", "scheduler", 2, 5))
    sender.send_multipart([second, encode_messages([user(1)])])
    with pytest.raises(MessageError, match="it is number 2, and the last one before it was 0"):
        until(receiver.take, 1)
    sender.close(0)
    receiver.close()


def test_of_a_stranger_nothing_is_missed(context: zmq.Context[Any], folder: Path) -> None:
    receiver = RecvChannel(context, folder, "scheduler", recorder=(recorder := MemoryRecorder()))
    stranger = context.socket(zmq.PUSH)
    stranger.connect(channel_address(folder, "scheduler"))
    for number, payload in ((7, encode_messages([user(1)])), (1, b"noise")):
        stranger.send_multipart([encode_envelope(Envelope("x", "scheduler", number, 5)), payload])
    stranger.send_multipart([encode_envelope(Envelope("y", "scheduler", 1, 5)), encode_messages([user(2)])])
    assert until(receiver.take, 1) == [user(2)]
    assert (receiver.num_rejected, len(of_kind(recorder, events.MsgRejected))) == (2, 2)
    stranger.close(0)
    receiver.close()


def test_a_broken_first_message_of_our_own_processes_is_missed(context: zmq.Context[Any], folder: Path) -> None:
    """Whoever waits for it would wait for ever, although nothing of that sender was understood before."""
    receiver = RecvChannel(context, folder, "scheduler", recorder=MemoryRecorder())
    sender = context.socket(zmq.PUSH)
    sender.connect(channel_address(folder, "scheduler"))
    sender.send_multipart([encode_envelope(Envelope("tokenizer-0", "scheduler", 1, 5)), b"noise"])
    with pytest.raises(MessageError, match="a message from tokenizer-0 is lost: the payload can't be decoded"):
        until(receiver.take, 1)
    sender.close(0)
    receiver.close()


def test_a_repeated_message_is_skipped_and_the_next_one_taken(context: zmq.Context[Any], folder: Path) -> None:
    receiver = RecvChannel(context, folder, "scheduler", recorder=(recorder := MemoryRecorder()))
    sender = context.socket(zmq.PUSH)
    sender.connect(channel_address(folder, "scheduler"))
    for number in (1, 2, 1, 2, 3):
        payload = encode_messages([user(number)])
        sender.send_multipart([encode_envelope(Envelope("tokenizer-0", "scheduler", number, 5)), payload])
    assert until(receiver.take, 3) == [user(1), user(2), user(3)]
    reasons = [event.reason for event in of_kind(recorder, events.MsgRejected)]
    assert len(reasons) == 2
    assert all("repeated" in reason for reason in reasons)
    sender.close(0)
    receiver.close()


@given(st.binary(max_size=60))
def test_no_bytes_break_a_decoder(noise: bytes) -> None:
    for channel in MESSAGES:
        for payload in (noise, encode_messages(MESSAGES[channel])[: len(noise)] + noise):
            try:
                MessageDecoder(channel).decode(payload)
            except MessageError:
                continue


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    fine = DetokenizeMsg(1, [], bytes(16), bytes(8), bytes(8), bytes(2))
    decoder = MessageDecoder("detokenizer")
    assert decoder.decode(encode_messages([fine])) == [fine]
    for field, value in [
        ("uids", bytes(15)),
        ("uids", bytes(24)),
        ("choices", b""),
        ("token_ids", bytes(4)),
        ("hidden", b"1"),
    ]:
        broken = msgspec.structs.replace(fine, **{field: value})
        with pytest.raises(MessageError, match="fit together"):
            decoder.decode(encode_messages([broken]))


def test_log_probabilities_that_do_not_fit_together_are_refused() -> None:
    values = LogprobsMsg(bytes(8), 3, bytes(24), bytes(24), np.array([0, 1], "<i4").tobytes())
    part = PromptLogprobsMsg(1, 0, msgspec.structs.replace(values, places=b""))
    fine = DetokenizeMsg(1, [], bytes(16), bytes(8), bytes(8), b"", [], values, [part])
    decoder = MessageDecoder("detokenizer")
    assert decoder.decode(encode_messages([fine])) == [fine]
    for field, value in [
        ("logprobs", bytes(7)),
        ("num_top", 2),
        ("num_top", -3),
        ("top_ids", bytes(20)),
        ("top_logprobs", b""),
        ("places", np.array([0, 2], "<i4").tobytes()),
        ("places", np.array([0, -1], "<i4").tobytes()),
        ("places", bytes(7)),
    ]:
        broken = msgspec.structs.replace(values, **{field: value})
        with pytest.raises(MessageError, match="log-probabilities"):
            decoder.decode(encode_messages([msgspec.structs.replace(fine, logprobs=broken)]))
        if field != "places":
            parts = [PromptLogprobsMsg(1, 0, msgspec.structs.replace(part.values, **{field: value}))]
            with pytest.raises(MessageError, match="log-probabilities"):
                decoder.decode(encode_messages([msgspec.structs.replace(fine, prompt_logprobs=parts)]))


def test_too_large_a_list_is_halved_and_too_large_a_message_refused(
    context: zmq.Context[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learnsgl.message.channel.MAX_MESSAGE_BYTES", 1000)
    receiver = RecvChannel(context, folder, "scheduler", recorder=MemoryRecorder())
    sender = SendChannel(context, folder, "scheduler", sender="me", recorder=(recorder := MemoryRecorder()))
    messages = [user(uid, 50) for uid in range(20)]
    sender.send(messages)
    assert until(receiver.take, 20) == messages
    assert all(event.num_bytes <= 1000 for event in of_kind(recorder, events.MsgSent))
    with pytest.raises(MessageError, match="a UserMsg for scheduler takes"):
        sender.send([user(1, 500)])
    sender.close()
    receiver.close()


def test_closing_does_not_wait_for_a_receiver_that_is_gone(folder: Path) -> None:
    context = zmq.Context()
    sender = SendChannel(context, folder, "scheduler", sender="me", recorder=MemoryRecorder())
    sender.send([user(1)])
    sender.close()
    context.term()  # pytest's timeout would tell


def test_what_was_sent_before_closing_arrives(context: zmq.Context[Any], folder: Path) -> None:
    receiver = RecvChannel(context, folder, "scheduler", recorder=MemoryRecorder())
    sender = SendChannel(context, folder, "scheduler", sender="me", recorder=MemoryRecorder())
    for uid in range(500):
        sender.send([user(uid)])
    sender.close()
    assert len(until(receiver.take, 500)) == 500
    receiver.close()


def test_the_asynchronous_end(folder: Path) -> None:
    async def main() -> list[Message]:
        context = zmq.Context()
        receiver = AsyncRecvChannel(context, folder, "api", recorder=MemoryRecorder())
        sender = SendChannel(context, folder, "api", sender="me", recorder=MemoryRecorder())
        sender.send(MESSAGES["api"])
        received = await asyncio.wait_for(receiver.receive(), 10)
        assert receiver.num_rejected == 0
        sender.close()
        receiver.close()
        context.term()
        return received

    assert asyncio.run(main()) == MESSAGES["api"]


class TestMailbox:
    @pytest.fixture
    def ends(self, context: zmq.Context[Any], folder: Path) -> Iterator[tuple[Mailbox, SendChannel, Any]]:
        reader, parent = multiprocessing.Pipe(duplex=False)
        recorder = MemoryRecorder()
        mailbox = Mailbox([RecvChannel(context, folder, "scheduler", recorder=recorder)], reader, recorder)
        sender = SendChannel(context, folder, "scheduler", sender="me", recorder=recorder)
        yield mailbox, sender, parent
        mailbox.close()
        sender.close()
        parent.close()

    def test_receives_with_and_without_waiting(self, ends: tuple[Mailbox, SendChannel, Any]) -> None:
        mailbox, sender, _ = ends
        assert mailbox.receive(block=False) == []
        sender.send([user(1)])
        assert mailbox.receive(block=True) == [user(1)]

    def test_the_word_to_stop_ends_the_wait_and_the_rest_still_arrives(
        self, ends: tuple[Mailbox, SendChannel, Any]
    ) -> None:
        mailbox, sender, parent = ends
        parent.send_bytes(STOP_WORD)
        assert mailbox.receive(block=True) == []
        assert mailbox.stopping
        sender.send([user(1)])
        assert mailbox.receive_last() == [user(1)]
        assert mailbox.receive_last() == []

    def test_a_parent_that_is_gone_ends_the_wait(self, ends: tuple[Mailbox, SendChannel, Any]) -> None:
        mailbox, _, parent = ends
        parent.close()
        with pytest.raises(ParentGone):
            mailbox.receive(block=True)


def test_the_socket_folder_is_private(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700


def test_too_long_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(sockets.tempfile, "tempdir", str(long))
    with pytest.raises(FolderError, match=r"too long a path.*TMPDIR"):
        make_socket_folder()
    assert list(long.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(FolderError, match="no folder for the sockets"):
        make_socket_folder()
