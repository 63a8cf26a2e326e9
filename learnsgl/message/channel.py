"""ZMQ channels: how one process hands messages to another. The receiver binds, its senders connect.

One ZMQ message has two frames, an envelope and a list of messages, and both ends record the same key for it (sender,
channel, number). The workers use `RecvChannel` in a poller, the API server `AsyncRecvChannel`; all use `SendChannel`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import zmq
import zmq.asyncio

from learnsgl.errors import MessageError
from learnsgl.message.codec import (
    MAX_MESSAGE_BYTES,
    Envelope,
    MessageDecoder,
    decode_envelope,
    encode_envelope,
    encode_messages,
    kinds_of,
    uids_of,
)
from learnsgl.message.sockets import channel_address
from learnsgl.message.types import Message
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder

LINGER_MS = 1000
"""How long closing waits for a receiver to take what was sent: long enough for a live one, short for a dead one."""

MAX_TAKEN = 256
"""ZMQ messages taken in one go, so that a flood can't keep a worker from its other work."""

_OUR_NAMES = re.compile(r"api|scheduler-[0-9]+|detokenizer|tokenizer-([0-9]+|detokenizer)")
"""Names of the server's own processes. What claims to be theirs and can't be understood is missed by somebody."""

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """Where a worker's messages go: a ZMQ channel, or a list in memory where one process does every job."""

    def send(self, messages: Sequence[Message]) -> None:
        """Hand a list of messages over and return at once."""
        ...


def _tune(socket: zmq.Socket[Any]) -> None:
    # No high-water mark: sending never blocks and never drops. A blocked sender could close a circle (scheduler to
    # detokenizer to scheduler); what waits is bounded by the answers of the requests that were let in.
    socket.set_hwm(0)
    socket.setsockopt(zmq.LINGER, LINGER_MS)


class SendChannel:
    """The sending end of a channel.

    Args:
        context: the process's ZMQ context.
        folder: the server's socket folder.
        channel: name of the channel, which is the receiver's.
        sender: name of this process.
        recorder: where `msg.sent` goes.
    """

    def __init__(
        self, context: zmq.Context[Any], folder: Path, channel: str, *, sender: str, recorder: Recorder
    ) -> None:
        self.channel = channel
        self._sender = sender
        self._recorder = recorder
        self._number = 0
        self._socket: zmq.Socket[Any] = context.socket(zmq.PUSH)
        _tune(self._socket)
        self._socket.connect(channel_address(folder, channel))

    def send(self, messages: Sequence[Message]) -> None:
        """Hand a list of messages to ZMQ and return at once. A list too large for one ZMQ message is halved.

        Raises:
            MessageError: a single message is larger than `MAX_MESSAGE_BYTES`.
        """
        if not messages:
            return
        payload = encode_messages(messages)
        if len(payload) > MAX_MESSAGE_BYTES:
            if len(messages) == 1:
                raise MessageError(
                    f"a {kinds_of(messages)} for {self.channel} takes {len(payload)} bytes; at most "
                    f"{MAX_MESSAGE_BYTES} are allowed"
                )
            half = len(messages) // 2
            self.send(messages[:half])
            self.send(messages[half:])
            return
        self._number += 1
        now = time.monotonic_ns()
        envelope = encode_envelope(Envelope(self._sender, self.channel, self._number, now))
        self._socket.send_multipart((envelope, payload), copy=False)
        if self._recorder.full:
            self._recorder.emit(
                events.MsgSent(now, self.channel, self._number, kinds_of(messages), uids_of(messages), len(payload))
            )

    def close(self) -> None:
        """Close the socket; what was sent still goes out, for at most `LINGER_MS`."""
        self._socket.close()


class _Inbox:
    """What both receiving ends share: opening ZMQ messages, skipping what strangers send, and missing what is lost.

    ZMQ loses nothing on its way between two processes of a host, so a gap is a defect. It can't be told which requests
    a lost message was about, and whoever waits for it would wait for ever: the process ends with an error, and the
    server with it.
    """

    def __init__(self, channel: str, recorder: Recorder) -> None:
        self.channel = channel
        self.num_rejected = 0
        self._recorder = recorder
        self._decoder = MessageDecoder(channel)
        self._last: dict[str, int] = {}
        """Number of the last message of each sender that was understood."""

    def open(self, frames: Sequence[bytes]) -> list[Message]:
        """The messages in one ZMQ message; none where it is broken, which is counted, recorded and logged.

        Raises:
            MessageError: messages of one of our own processes, or of a sender that was understood before, are lost; or
                this one of its is broken.
        """
        num_bytes = sum(len(frame) for frame in frames[1:])
        envelope: Envelope | None = None
        try:
            if len(frames) != 2:
                raise MessageError(f"it has {len(frames)} frames; there must be 2")
            envelope = decode_envelope(frames[0])
            if envelope.channel != self.channel:
                raise MessageError(f"it was sent to channel {envelope.channel!r}")
            messages = self._decoder.decode(frames[1])
            self._check_gap(envelope)
        except MessageError as error:
            self._reject(str(error), envelope, num_bytes)
            if envelope is not None and self._is_missed(envelope):
                raise MessageError(f"a message from {envelope.sender} is lost: {error}") from None
            return []
        self._last[envelope.sender] = envelope.number
        if self._recorder.full:
            self._recorder.emit(
                events.MsgReceived(
                    time.monotonic_ns(), envelope.sender, self.channel, envelope.number, envelope.sent_ns, num_bytes
                )
            )
        return messages

    def _is_missed(self, envelope: Envelope) -> bool:
        """Whether somebody waits for what can't be understood. Noise and repetitions aren't missed."""
        last = self._last.get(envelope.sender)
        if last is None:
            return _OUR_NAMES.fullmatch(envelope.sender) is not None
        return envelope.number > last or envelope.channel != self.channel

    def _check_gap(self, envelope: Envelope) -> None:
        last = self._last.get(envelope.sender, 0)
        if envelope.number != last + 1:
            repeated = ", so it is repeated" if envelope.number <= last else ""
            raise MessageError(f"it is number {envelope.number}, and the last one before it was {last}{repeated}")

    def _reject(self, reason: str, envelope: Envelope | None, num_bytes: int) -> None:
        self.num_rejected += 1
        sender, number = (envelope.sender, envelope.number) if envelope else (None, None)
        _log.error("a message on channel %s is skipped: %s (sender %s)", self.channel, reason, sender or "unknown")
        if self._recorder.steps:
            self._recorder.emit(
                events.MsgRejected(time.monotonic_ns(), self.channel, reason, sender, number, num_bytes)
            )


class RecvChannel:
    """The receiving end of a channel in a worker.

    Attributes:
        socket: for a poller.
    """

    def __init__(self, context: zmq.Context[Any], folder: Path, channel: str, *, recorder: Recorder) -> None:
        self._inbox = _Inbox(channel, recorder)
        self.socket: zmq.Socket[Any] = context.socket(zmq.PULL)
        _tune(self.socket)
        self.socket.bind(channel_address(folder, channel))

    @property
    def num_rejected(self) -> int:
        """Messages that were skipped because they were broken."""
        return self._inbox.num_rejected

    def take(self) -> list[Message]:
        """What has arrived, in order of arrival, without waiting.

        Raises:
            MessageError: a message is lost.
        """
        taken: list[Message] = []
        for _ in range(MAX_TAKEN):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            taken += self._inbox.open(frames)
        return taken

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class AsyncRecvChannel:
    """The receiving end of a channel in an asyncio program."""

    def __init__(self, context: zmq.Context[Any], folder: Path, channel: str, *, recorder: Recorder) -> None:
        self._inbox = _Inbox(channel, recorder)
        self._socket = zmq.asyncio.Context.shadow(context).socket(zmq.PULL)
        _tune(self._socket)
        self._socket.bind(channel_address(folder, channel))

    @property
    def num_rejected(self) -> int:
        """Messages that were skipped because they were broken."""
        return self._inbox.num_rejected

    async def receive(self) -> list[Message]:
        """Wait for the next ZMQ message; the messages in it, none where it was broken.

        Raises:
            MessageError: a message is lost.
        """
        return self._inbox.open(await self._socket.recv_multipart())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
