"""Where requests with a new grammar wait until it is compiled, so that the scheduler's loop never does.

`SchedulerIO` passes every message through. A grammar may take half a second to compile; a thread does it, with the GIL
released, while the requests before it go on and those behind it overtake. How many there are is no business of the
scheduler's: for it a request arrives when its grammar is ready, so the same messages still give the same decisions.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import msgspec

from learnsgl.core import Grammar
from learnsgl.errors import RequestError
from learnsgl.message.types import AbortMsg, FlushCacheMsg, UserMsg
from learnsgl.scheduler.grammar import MAX_KEPT, MAX_KEPT_CHARS, Grammars

SchedulerMessage = UserMsg | AbortMsg | FlushCacheMsg


@dataclass(slots=True)
class _Held:
    """A request that waits, and the aborts that came for it meanwhile: they must not overtake it."""

    messages: list[SchedulerMessage]
    grammar: Grammar
    compiled: Future[None] | None = None
    """`None` as long as it stands in line."""

    @property
    def is_done(self) -> bool:
        """Whether it can go on."""
        return self.compiled is not None and self.compiled.done()

    def give_up(self) -> bool:
        """Leave the line, because nobody waits for the answer any more; false if the compilation has begun."""
        if self.compiled is not None and not self.compiled.cancel():
            return False
        self.messages[0] = _without_grammar(self.messages[0])
        return True


@dataclass(slots=True)
class GrammarDesk:
    """Holds requests back until their grammars are compiled, or they are aborted before that has begun.

    Attributes:
        grammars: compiles, and is asked again by the scheduler, which then finds the result.
    """

    grammars: Grammars
    _held: dict[int, _Held] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
    )

    @property
    def is_busy(self) -> bool:
        """Whether a request waits here."""
        return bool(self._held)

    def pass_through(self, messages: Sequence[SchedulerMessage]) -> list[SchedulerMessage]:
        """The messages that need not wait, or no longer, each request's in their order."""
        ready: deque[SchedulerMessage] = deque()
        for message in messages:
            held = None if isinstance(message, FlushCacheMsg) else self._held.get(message.uid)
            if held is not None:
                held.messages.append(message)
                if isinstance(message, AbortMsg) and message.choice is None and held.give_up():
                    ready.extend(self._held.pop(message.uid).messages)
            elif isinstance(message, UserMsg) and (grammar := message.sampling.grammar) is not None:
                if self.grammars.is_known(grammar):
                    ready.append(message)
                else:
                    self._held[message.uid] = _Held([message], grammar)
            else:
                ready.append(message)
        for uid in [uid for uid, held in self._held.items() if held.is_done]:
            ready.extend(self._held.pop(uid).messages)
        self._submit()
        return list(ready)

    def _submit(self) -> None:
        """Have the next ones compiled, as many as are sure to be remembered until the scheduler asks for them."""
        num_chars = 0
        for num_ahead, held in enumerate(self._held.values()):  # those that were submitted stand first
            num_chars += len(held.grammar.text)
            if num_ahead >= MAX_KEPT // 2 or num_chars > MAX_KEPT_CHARS // 2:
                return
            if held.compiled is None:
                held.compiled = self._thread.submit(self._compile, held.grammar)

    def wait(self, timeout_s: float | None) -> None:
        """Return when a grammar is compiled, at the latest after `timeout_s`; `None`: when all that were begun are."""
        futures = [held.compiled for held in self._held.values() if held.compiled is not None]
        if timeout_s is None:
            wait(futures)
        elif futures:
            wait(futures[:1], timeout_s)  # they are compiled one after the other

    def close(self) -> None:
        """End the thread; what waits is forgotten."""
        self._held.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _compile(self, grammar: Grammar) -> None:
        """Have the grammar known; the scheduler tells the client of an error."""
        with contextlib.suppress(RequestError):  # remembered, and raised again when the scheduler asks
            self.grammars.compile(grammar)


def _without_grammar(message: SchedulerMessage) -> SchedulerMessage:
    """A request whose abort follows right behind it, so that nobody needs its grammar any more."""
    assert isinstance(message, UserMsg), "what is held begins with a request"
    return msgspec.structs.replace(message, sampling=msgspec.structs.replace(message.sampling, grammar=None))
