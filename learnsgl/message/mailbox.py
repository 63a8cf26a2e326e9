"""A worker's ear: its channels and the pipe from its parent behind one poller.

The tokenizer, the detokenizer and the scheduler wait here and nowhere else, so each hears at once when the parent
asks it to stop, or is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zmq

from learnsgl.config import TraceLevel
from learnsgl.message.channel import RecvChannel
from learnsgl.message.types import Message
from learnsgl.trace.recorder import Recorder

STOP_WORD = b"stop"
"""What the parent writes into the control pipe to end a worker in order."""

TRACE_STOP_WORD = b"trace stop"
"""Likewise, to end the recording."""

_TRACE_START = b"trace start "
_MAX_WORD_BYTES = 8192

FLUSH_AFTER_MS = 50
"""A worker that hears nothing for so long writes its pending trace events."""

QUIET_MS = 50
"""After the parent's word to stop, a worker ends once nothing has arrived for so long."""


def trace_start_word(folder: Path, level: TraceLevel) -> bytes:
    """What the parent writes into the control pipe to begin a recording in a run's folder."""
    return _TRACE_START + level.value.encode() + b" " + os.fsencode(folder)


def parse_trace_start(word: bytes) -> tuple[Path, TraceLevel] | None:
    """The folder and the level in such a word; `None` for any other word."""
    if not word.startswith(_TRACE_START):
        return None
    level, _, folder = word.removeprefix(_TRACE_START).partition(b" ")
    return Path(os.fsdecode(folder)), TraceLevel(level.decode())


class Loop:
    """What a worker's loop does at this moment. Another thread reads it, to tell the parent.

    Attributes:
        turn: counted up whenever the loop has got something done.
        is_waiting: whether the loop waits for messages, which may take for ever.
    """

    def __init__(self) -> None:
        self.turn = 0
        self.is_waiting = False


class ParentGone(Exception):
    """The parent's end of the control pipe is closed: it died, and nobody is left to serve."""


class Mailbox:
    """Receives from several channels and from the parent.

    Args:
        channels: the worker's receiving channels.
        control: reading end of the pipe from the parent.
        recorder: flushed while the worker waits.
        on_word: told of every word of the parent but the one to stop.
        loop: kept true while the loop waits here; a loop of its own where nobody reads it.

    Attributes:
        stopping: whether the parent has asked the worker to stop.
        loop: what the worker's loop does.
    """

    def __init__(
        self, channels: Sequence[RecvChannel], control: Connection, recorder: Recorder,
        on_word: Callable[[bytes], None] = lambda word: None, loop: Loop | None = None,
    ) -> None:  # fmt: skip
        self.stopping = False
        self.loop = loop or Loop()
        self._on_word = on_word
        self._channels = list(channels)
        self._control = control
        self._recorder = recorder
        self._poller = zmq.Poller()
        for channel in self._channels:
            self._poller.register(channel.socket, zmq.POLLIN)
        self._poller.register(control.fileno(), zmq.POLLIN)

    def receive(self, *, block: bool) -> list[Message]:
        """What has arrived; with `block`, waits until something has, or the parent asks to stop.

        Raises:
            ParentGone: the parent is dead.
        """
        self._recorder.flush_if_due()
        if not block:
            return self._take(0)
        messages = self._take(FLUSH_AFTER_MS)
        while not messages and not self.stopping:
            self._recorder.flush()
            messages = self._take(None)
        return messages

    def receive_last(self) -> list[Message]:
        """After the word to stop: what still arrives; nothing once the channels have been quiet for a while."""
        return self._take(QUIET_MS)

    def close(self) -> None:
        """Close the channels and the pipe."""
        for channel in self._channels:
            channel.close()
        self._control.close()

    def _take(self, timeout_ms: int | None) -> list[Message]:
        ready = self._wait(timeout_ms)
        messages: list[Message] = []
        for channel in self._channels:
            if channel.socket in ready:
                messages += channel.take()
        if self._control.fileno() in ready:
            self._hear_parent()
        return messages

    def _wait(self, timeout_ms: int | None) -> dict[Any, int]:
        """What there is to take. A loop that only looks and finds nothing has got nothing done."""
        loop = self.loop
        loop.is_waiting = timeout_ms != 0
        ready = dict(self._poller.poll(timeout_ms))
        if loop.is_waiting or ready:
            loop.turn += 1
        loop.is_waiting = False
        return ready

    def _hear_parent(self) -> None:
        try:
            word = self._control.recv_bytes(_MAX_WORD_BYTES)
        except (EOFError, OSError):
            raise ParentGone from None
        if word == STOP_WORD:
            self.stopping = True
        else:
            self._on_word(word)
