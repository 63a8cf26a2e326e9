"""The scheduler's ends of the channels: requests and aborts come in, tokens and endings go out.

`worker.py` calls it around each step.
"""

from __future__ import annotations

from collections.abc import Sequence

from learnsgl.message.channel import SendChannel
from learnsgl.message.mailbox import Mailbox
from learnsgl.message.types import AbortMsg, DetokenizeMsg, FlushCacheMsg, Message, UserMsg
from learnsgl.scheduler.grammar_desk import GrammarDesk, SchedulerMessage

LOOK_AGAIN_S = 0.002
"""While a grammar is compiled and nothing runs, messages are looked for so often."""


class SchedulerIO:
    """Receives for the scheduler and sends for it.

    Args:
        mailbox: the scheduler's channel and the control pipe.
        detokenizer: where tokens go.
        desk: where requests wait whose grammars aren't compiled yet.
    """

    def __init__(self, mailbox: Mailbox, detokenizer: SendChannel, desk: GrammarDesk) -> None:
        self._mailbox = mailbox
        self._detokenizer = detokenizer
        self._desk = desk

    @property
    def stopping(self) -> bool:
        """Whether the parent has asked the process to stop."""
        return self._mailbox.stopping

    def receive(self, *, block: bool) -> list[SchedulerMessage]:
        """What has arrived; with `block`, waits until something has or the parent says stop."""
        while True:
            arrived = self._mailbox.receive(block=block and not self._desk.is_busy)
            messages = self._desk.pass_through(for_scheduler(arrived))
            if messages or not block or self.stopping:
                return messages
            self._desk.wait(LOOK_AGAIN_S)

    def receive_last(self) -> list[SchedulerMessage]:
        """After the word to stop: what still arrives, nothing once it is quiet."""
        messages = self._desk.pass_through(for_scheduler(self._mailbox.receive_last()))
        if not messages and self._desk.is_busy:
            self._desk.wait(None)
            messages = self._desk.pass_through([])
        return messages

    def progressed(self) -> None:
        """Tell the watchdog that the loop has got something done."""
        self._mailbox.loop.turn += 1

    def send(self, message: DetokenizeMsg) -> None:
        """Send what a step gave to the detokenizer."""
        self._detokenizer.send([message])


def for_scheduler(messages: Sequence[Message]) -> list[SchedulerMessage]:
    """The messages with the type that the channel's decoder has made sure of."""
    return [message for message in messages if isinstance(message, (UserMsg, AbortMsg, FlushCacheMsg))]
