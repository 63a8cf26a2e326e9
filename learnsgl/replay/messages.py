"""All messages of a recording, and which of them are on their way at a moment: sent, and not yet received.

`replay.py` makes the index when messages are asked for the first time, and goes on with it when a recording grows.
Everything is read once for it, but only `msg.*` events and the names of requests are decoded whole; of all others the
decoder passes over the fields. That takes about half a second for a million events. Looking only around the moment
would be quicker for busy channels, but a message that was sent long ago to a process that hangs, the one that is worth
finding, can be anywhere.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Union

import msgspec

from learnsgl.errors import TraceFormatError
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.events import KINDS, Event
from learnsgl.trace.reader import Trace

LookUp = Callable[[str, int], Event | None]


class _Sent(msgspec.Struct, array_like=True, gc=False, tag=str(events.MsgSent.__struct_config__.tag)):
    """What the index needs of `msg.sent`; its other fields are passed over."""

    ns: int
    channel: str
    number: int


_READ: dict[str, Any] = {
    str(kind.__struct_config__.tag): kind
    for kind in (_Sent, events.MsgReceived, events.MsgRejected, events.HttpReceived, events.ReqQueued)
}
_TAKEN = frozenset(_READ.values())
_PASSED_OVER = [
    msgspec.defstruct(f"_{name.replace('.', '_')}", [("ns", int)], array_like=True, gc=False, tag=name)
    for name in KINDS
    if name not in _READ
]
_DECODER: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(
    list[Union[(*_READ.values(), *_PASSED_OVER)]]  # type: ignore[misc]
)
_RAW = msgspec.msgpack.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class MessageInFlight:
    """A message that was sent and not yet received.

    Attributes:
        sender: the process that sent it.
        channel: name of the receiving socket.
        number: counts the sender's messages on this channel from 1.
        sent_ns: when it was handed to ZMQ.
        receiver: the process that takes it later; `None` where none ever does.
        kinds: what is in it, such as `UserMsg`; `None` where its sender's part of the recording is missing.
        uids: requests that it is about; `None` likewise.
        num_bytes: length of its payload.
    """

    sender: str
    channel: str
    number: int
    sent_ns: int
    receiver: str | None
    kinds: str | None
    uids: tuple[int, ...] | None
    num_bytes: int


class _Channel:
    """The messages of one sender on one channel, ascending by number; parallel arrays, since there may be millions.

    Attributes:
        receiver: the process that takes them; `None` where none was ever taken.
        numbers, sent_ns, num_bytes: of each message.
        sent_at, received_at: numbers of the two events in their processes; 0 for one that isn't in the recording.
    """

    def __init__(self) -> None:
        self.receiver: str | None = None
        self.numbers, self.sent_ns, self.num_bytes, self.sent_at, self.received_at = (array("q") for _ in range(5))
        self._orders: _Orders | None = None

    def place(self, number: int, sent_ns: int, num_bytes: int) -> int:
        """Where a message stands in the arrays; it is added if it isn't there."""
        self._orders = None
        last = len(self.numbers) - 1
        if last >= 0 and number <= self.numbers[last]:
            guess = last - (self.numbers[last] - number)  # right unless numbers are missing
            place = guess if guess >= 0 and self.numbers[guess] == number else bisect_left(self.numbers, number)
            if self.numbers[place] == number:
                return place
        else:
            place = last + 1
        self.numbers.insert(place, number)
        self.sent_ns.insert(place, sent_ns)
        self.num_bytes.insert(place, num_bytes)
        self.sent_at.insert(place, 0)
        self.received_at.insert(place, 0)
        return place

    @property
    def orders(self) -> _Orders:
        """The arrays by which messages in flight are found, made when they are first needed."""
        if self._orders is None:
            latest = accumulate(self.received_at, max)
            self._orders = _Orders(list(latest), [p for p, at in enumerate(self.received_at) if not at])
        return self._orders


class _Orders(NamedTuple):
    """Attributes: for each message the latest receipt up to it; places of messages that were never received."""

    latest_receipt: list[int]
    never_received: list[int]


class MessageIndex:
    """Every message of a recording, and the ids of its requests.

    Attributes:
        uids: ids of all requests that were received or queued, in the order in which they are first named.
    """

    def __init__(self) -> None:
        self.uids: dict[int, None] = {}
        self._channels: dict[tuple[str, str], _Channel] = {}
        self._read_to: dict[str, int] = {}

    @property
    def num_messages(self) -> int:
        """Messages that were sent or received."""
        return sum(len(channel.numbers) for channel in self._channels.values())

    def read(self, trace: Trace) -> None:
        """Take over what a recording has beyond what was read of it.

        Raises:
            TraceFormatError: a frame is broken; file and offset are named.
        """
        for process in trace.processes:
            start = self._read_to.get(process, 0) + 1
            for frame, payload in trace.payloads(process, start=start):
                where = f"{trace.path}: {frame.file}, byte {frame.offset}"
                for number, event in enumerate(_decode(payload, where), start=frame.header.first):
                    if type(event) in _TAKEN and number >= start:
                        self._take(process, number, event)
                self._read_to[process] = frame.header.last

    def _take(self, process: str, number: int, event: Any) -> None:
        kind = type(event)
        if kind is _Sent:
            channel = self._channel(process, event.channel)
            place = channel.place(event.number, event.ns, 0)
            channel.sent_at[place], channel.sent_ns[place] = number, event.ns
        elif kind is events.MsgReceived:
            self._receive(process, number, event, event.sent_ns)
        elif kind is events.MsgRejected and event.sender is not None and event.number is not None:
            self._receive(process, number, event, event.ns)
        elif kind is events.HttpReceived or kind is events.ReqQueued:
            self.uids[event.uid] = None

    def _receive(self, process: str, number: int, event: Any, sent_ns: int) -> None:
        channel = self._channel(event.sender, event.channel)
        place = channel.place(event.number, sent_ns, event.num_bytes)
        channel.received_at[place], channel.num_bytes[place] = number, event.num_bytes
        channel.receiver = process

    def _channel(self, sender: str, name: str) -> _Channel:
        channel = self._channels.get((sender, name))
        if channel is None:
            channel = self._channels[sender, name] = _Channel()
        return channel

    def in_flight(self, ns: int, positions: Mapping[str, int], look_up: LookUp) -> tuple[MessageInFlight, ...]:
        """Messages that are sent and not received, by the moment at which they were sent.

        Args:
            ns: the moment, for messages whose sender's part of the recording is missing.
            positions: number of the last event of each process that has happened.
            look_up: gives an event by its process and number.
        """
        found = [
            _message(sender, name, channel, place, look_up)
            for (sender, name), channel in self._channels.items()
            for place in _waiting(sender, channel, ns, positions)
        ]
        return tuple(sorted(found, key=lambda message: (message.sent_ns, message.sender, message.channel)))


def _waiting(sender: str, channel: _Channel, ns: int, positions: Mapping[str, int]) -> Iterator[int]:
    """Places of a channel's messages that are on their way."""
    sent_to = positions.get(sender, 0)
    received_to = positions.get(channel.receiver, 0) if channel.receiver is not None else 0

    def is_sent(place: int) -> bool:
        at = channel.sent_at[place]
        return at <= sent_to if at else channel.sent_ns[place] <= ns

    orders = channel.orders
    first = bisect_right(orders.latest_receipt, received_to)  # all before it are received, or never are
    for place in orders.never_received:
        if place < first and is_sent(place):
            yield place
    for place in range(first, len(channel.numbers)):
        if not is_sent(place):
            return  # and neither are those behind it
        if not 0 < channel.received_at[place] <= received_to:
            yield place


def _message(sender: str, name: str, channel: _Channel, place: int, look_up: LookUp) -> MessageInFlight:
    sent = look_up(sender, channel.sent_at[place]) if channel.sent_at[place] else None
    kinds, uids, num_bytes = None, None, channel.num_bytes[place]
    if isinstance(sent, events.MsgSent):
        kinds, uids, num_bytes = sent.kinds, tuple(ints(sent.uids, "i8").tolist()), sent.num_bytes
    receiver = channel.receiver if channel.received_at[place] else None
    return MessageInFlight(
        sender, name, channel.numbers[place], channel.sent_ns[place], receiver, kinds, uids, num_bytes
    )


def _decode(payload: bytes, where: str) -> list[Any]:
    """A frame's events: those of `_READ` whole, `None` for kinds that we don't know."""
    try:
        try:
            return _DECODER.decode(payload)
        except msgspec.ValidationError:  # a kind that we don't know, or an event that is wrong
            return [_decode_one(raw) for raw in _RAW.decode(payload)]
    except msgspec.MsgspecError as error:
        raise TraceFormatError(f"{where}: an event can't be decoded: {error}") from error


def _decode_one(raw: msgspec.Raw) -> Any:
    name = msgspec.msgpack.decode(raw)[0]
    return msgspec.msgpack.decode(raw, type=_READ[name]) if name in _READ else None
