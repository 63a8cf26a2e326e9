"""Messages with both their ends: what was sent, paired with what was received, as the events stream by.

The tracks, the spans and the table of messages come from here. A message that was never received is handed out at the
end, and one whose sending isn't in the trace without its kinds and requests.
"""

from __future__ import annotations

from typing import NamedTuple

from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.reader import Entry


class Message(NamedTuple):
    """A message between two processes.

    Attributes:
        sender, channel, number: what names it.
        sent_ns: when it was handed to ZMQ.
        num_bytes: length of its payload.
        kinds: what was in it, such as `UserMsg`; `None` where its sending isn't in the trace.
        uids: requests that it is about.
        receiver, received_ns: who took it, and when; `None` where the trace doesn't hold that.
    """

    sender: str
    channel: str
    number: int
    sent_ns: int
    num_bytes: int
    kinds: str | None = None
    uids: tuple[int, ...] = ()
    receiver: str | None = None
    received_ns: int | None = None

    @property
    def name(self) -> str:
        """What was in it; or where it went, where that isn't known."""
        return self.kinds or f"message to {self.channel}"


class MessagePairs:
    """Pairs sends with receives."""

    def __init__(self) -> None:
        self._sent: dict[tuple[str, str, int], Message] = {}

    def sent(self, entry: Entry, event: events.MsgSent) -> Message:
        """A message was sent; it is kept until it is received."""
        uids = tuple(ints(event.uids, "i8").tolist())
        message = Message(entry.process, event.channel, event.number, event.ns, event.num_bytes, event.kinds, uids)
        self._sent[message[:3]] = message
        return message

    def received(self, entry: Entry, event: events.MsgReceived) -> Message:
        """A message was received: whole where its sending is in the trace."""
        sent = self._sent.pop((event.sender, event.channel, event.number), None)
        if sent is None:
            sent = Message(event.sender, event.channel, event.number, event.sent_ns, event.num_bytes)
        return sent._replace(receiver=entry.process, received_ns=event.ns)

    def rest(self) -> list[Message]:
        """After the last event: messages that nobody has received."""
        left = list(self._sent.values())
        self._sent.clear()
        return left
