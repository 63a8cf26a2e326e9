"""The scheduler's ends of the channels: requests and aborts come in, tokens and endings go out.

`worker.py` calls it around each step. It also knows which requests have no ending yet, so that none is left waiting
when the engine fails.
"""

from __future__ import annotations

from learnsgl.core import FinishReason
from learnsgl.errors import EngineError
from learnsgl.message.channel import SendChannel
from learnsgl.message.mailbox import Mailbox
from learnsgl.message.types import AbortMsg, DetokenizeMsg, Ending, ErrorInfo, Message, UserMsg


class SchedulerIO:
    """Receives for the scheduler and sends for it.

    Args:
        mailbox: the scheduler's channel and the control pipe.
        detokenizer: where tokens go.
    """

    def __init__(self, mailbox: Mailbox, detokenizer: SendChannel) -> None:
        self._mailbox = mailbox
        self._detokenizer = detokenizer
        self._open: dict[int, None] = {}
        """Requests that came in and have no ending yet, in order of arrival."""

    @property
    def stopping(self) -> bool:
        """Whether the parent has asked the process to stop."""
        return self._mailbox.stopping

    def receive(self, *, block: bool) -> list[UserMsg | AbortMsg]:
        """What has arrived; with `block`, waits until something has or the parent says stop."""
        return self._note(self._mailbox.receive(block=block))

    def receive_last(self) -> list[UserMsg | AbortMsg]:
        """After the word to stop: what still arrives, nothing once it is quiet."""
        return self._note(self._mailbox.receive_last())

    def send(self, message: DetokenizeMsg) -> None:
        """Send what a step gave to the detokenizer."""
        for ending in message.endings:
            self._open.pop(ending.uid, None)
        self._detokenizer.send([message])

    def end_all(self, error: EngineError) -> None:
        """End every request that has no ending yet with this error, because the engine can't go on."""
        info = ErrorInfo(f"the engine failed: {error}", status=500, code="engine_error")
        endings = [Ending(uid, 0, FinishReason.ERROR, error=info) for uid in self._open]
        if endings:
            self.send(DetokenizeMsg(endings=endings))

    def _note(self, messages: list[Message]) -> list[UserMsg | AbortMsg]:
        mine = [message for message in messages if isinstance(message, (UserMsg, AbortMsg))]
        self._open.update((message.uid, None) for message in mine if isinstance(message, UserMsg))
        return mine
