"""The scheduler's ends of the channels: requests and aborts come in, tokens and endings go out.

`worker.py` calls it around each step.
"""

from __future__ import annotations

from collections.abc import Sequence

from learnsgl.message.channel import SendChannel
from learnsgl.message.mailbox import Mailbox
from learnsgl.message.types import AbortMsg, DetokenizeMsg, FlushCacheMsg, Message, UserMsg

SchedulerMessage = UserMsg | AbortMsg | FlushCacheMsg


class SchedulerIO:
    """Receives for the scheduler and sends for it.

    Args:
        mailbox: the scheduler's channel and the control pipe.
        detokenizer: where tokens go.
    """

    def __init__(self, mailbox: Mailbox, detokenizer: SendChannel) -> None:
        self._mailbox = mailbox
        self._detokenizer = detokenizer

    @property
    def stopping(self) -> bool:
        """Whether the parent has asked the process to stop."""
        return self._mailbox.stopping

    def receive(self, *, block: bool) -> list[SchedulerMessage]:
        """What has arrived; with `block`, waits until something has or the parent says stop."""
        return for_scheduler(self._mailbox.receive(block=block))

    def receive_last(self) -> list[SchedulerMessage]:
        """After the word to stop: what still arrives, nothing once it is quiet."""
        return for_scheduler(self._mailbox.receive_last())

    def progressed(self) -> None:
        """Tell the watchdog that the loop has got something done."""
        self._mailbox.loop.turn += 1

    def send(self, message: DetokenizeMsg) -> None:
        """Send what a step gave to the detokenizer."""
        self._detokenizer.send([message])


def for_scheduler(messages: Sequence[Message]) -> list[SchedulerMessage]:
    """The messages with the type that the channel's decoder has made sure of."""
    return [message for message in messages if isinstance(message, (UserMsg, AbortMsg, FlushCacheMsg))]
