"""Every message that was sent was received, once, in order, and later than it was sent; and the other way round.

A message is named by its sender, its channel and its number on that channel; both ends recorded that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from learnsgl.trace import events
from learnsgl.trace.checks.base import Check, Handler, Missing, Place, Scope, place_of, violation
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Entry


class _Road(NamedTuple):
    """All messages from one sender on one channel."""

    sender: str
    channel: str


class _End(NamedTuple):
    """One end of a message."""

    place: Place
    sent_ns: int
    num_bytes: int


class MessageCheck(Check):
    """Pairs `msg.sent` with `msg.received` or `msg.rejected`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._sent: dict[tuple[_Road, int], _End] = {}
        self._received: dict[tuple[_Road, int], _End] = {}
        self._last_sent: dict[_Road, int] = {}
        self._last_received: dict[_Road, int] = {}
        self._receivers: dict[str, str] = {}
        self._unreadable: Counter[str] = Counter()
        self._num_paired = 0
        self._num_excused = 0
        self._num_rejected = 0
        self._rejected: set[tuple[_Road, int]] = set()

    def handlers(self) -> dict[type[Event], Handler]:
        """The kinds of the family `msg.*`; a gap in a recording is a gap in its messages too."""
        if not self._scope.full:
            return {}
        return {
            events.MsgSent: self._on_sent,
            events.MsgReceived: self._on_received,
            events.MsgRejected: self._on_rejected,
        }

    def _on_sent(self, entry: Entry, event: events.MsgSent) -> None:
        road = _Road(entry.process, event.channel)
        self._check_order(entry, "sent", event.number, self._last_sent.get(road), entry.process)
        self._last_sent[road] = event.number
        self._sent[road, event.number] = _End(place_of(entry), event.ns, event.num_bytes)
        self._pair(road, event.number)

    def _on_received(self, entry: Entry, event: events.MsgReceived) -> None:
        self._take(entry, _Road(event.sender, event.channel), event.number, event.sent_ns, event.num_bytes)
        if event.ns < event.sent_ns:
            raise violation(entry, f"was received {event.sent_ns - event.ns} ns before it was sent")

    def _on_rejected(self, entry: Entry, event: events.MsgRejected) -> None:
        self._num_rejected += 1
        self._receivers[event.channel] = entry.process
        if event.sender is None or event.number is None:
            self._unreadable[event.channel] += 1
            return
        self._rejected.add((_Road(event.sender, event.channel), event.number))

    def _take(self, entry: Entry, road: _Road, number: int, sent_ns: int, num_bytes: int) -> None:
        owner = self._receivers.setdefault(road.channel, entry.process)
        if owner != entry.process:
            raise violation(entry, f"channel {road.channel} is {owner}'s, but {entry.process} takes a message from it")
        last = self._last_received.get(road)
        if last is not None and number <= last:
            raise violation(entry, f"message {number} from {road.sender} was taken after message {last}")
        self._last_received[road] = number
        self._received[road, number] = _End(place_of(entry), sent_ns, num_bytes)
        self._pair(road, number)

    def _check_order(self, entry: Entry, verb: str, number: int, last: int | None, process: str) -> None:
        if last is None and process in self._scope.late:
            return
        expected = (last or 0) + 1
        if number != expected and not (process in self._scope.dropped and number > expected):
            raise violation(entry, f"message {number} was {verb}, but {expected} comes next on this channel")

    def _pair(self, road: _Road, number: int) -> None:
        sent, received = self._sent.get((road, number)), self._received.get((road, number))
        if sent is None or received is None:
            return
        del self._sent[road, number], self._received[road, number]
        if (sent.sent_ns, sent.num_bytes) != (received.sent_ns, received.num_bytes):
            raise received.place.violation(
                f"says sent at {received.sent_ns}, {received.num_bytes} bytes; {road.sender} sent it at "
                f"{sent.sent_ns}, {sent.num_bytes} bytes (event {sent.place.number})"
            )
        self._num_paired += 1

    def finish(self) -> Iterator[Missing]:
        """Messages with one end only."""
        for (road, number), end in self._sent.items():
            if (road, number) in self._rejected:
                self._num_paired += 1
            elif self._is_receive_excused(road, number, end):
                self._num_excused += 1
            else:
                yield Missing(end.place, f"message {number} on channel {road.channel} was sent, but never received")
        for (road, number), end in self._received.items():
            if self._is_send_excused(road, number, end):
                self._num_excused += 1
            else:
                yield Missing(end.place, f"message {number} from {road.sender} was received, but never sent")
        if self._num_excused:
            self._scope.notes.append(f"{self._num_excused} messages have their other end in a part that was cut off")

    def _is_receive_excused(self, road: _Road, number: int, end: _End) -> bool:
        """Whether the receiver's recording lacks the part in which this message may have been received."""
        if self._unreadable[road.channel]:
            self._unreadable[road.channel] -= 1
            return True
        scope = self._scope
        receiver = self._receivers.get(road.channel)
        if receiver is None:  # nobody ever took from this channel: its owner may be one whose recording is cut
            return any(scope.is_cut(name) or scope.has_holes(name) for name in self._others(road.sender))
        if receiver in scope.ended_ns and end.sent_ns >= scope.ended_ns[receiver]:
            return True
        if scope.is_cut(receiver) and number > self._last_received.get(road, 0):
            return True
        return scope.in_hole(receiver, end.sent_ns)

    def _others(self, sender: str) -> list[str]:
        return [name for name in {*self._scope.trace.processes, *self._scope.lost} if name != sender]

    def _is_send_excused(self, road: _Road, number: int, end: _End) -> bool:
        """Whether the sender's recording lacks the part in which this message was sent."""
        if self._scope.is_cut(road.sender) and number > self._last_sent.get(road, 0):
            return True
        return self._scope.in_hole(road.sender, end.sent_ns)

    def proved(self) -> list[str]:
        """Messages with both ends."""
        if not self._scope.full:
            return []
        rejected = f", {self._num_rejected} of them rejected as broken" if self._num_rejected else ""
        return [f"messages  {self._num_paired:,} sent and received once, in order{rejected}"]
