"""From the text of an answer to its tool calls, piece by piece as the text comes.

The API server makes a parser for each answer of a request with tools; `tool_forms.py` says which. What comes out
doesn't hang on how the text is cut into pieces: joined, it is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from learnsgl.tokenizer.tool_text import SPACE, Fit, Head, JsonObject, num_undecided, read_head


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What is new of a call.

    Attributes:
        index: the call's number in the answer.
        name: the function, with the first delta of a call; `None` with the others.
        arguments: the next characters of the arguments, exactly as the model wrote them; JSON once all are there.
    """

    index: int
    name: str | None
    arguments: str


class Parsed(NamedTuple):
    """What a piece of text gave: content, and parts of calls."""

    content: str
    calls: tuple[CallDelta, ...]


class _Place(Enum):
    """Where in the answer a parser is."""

    TEXT = 1
    HEAD = 2
    ARGUMENTS = 3
    TAIL = 4


class CallParser(ABC):
    """Reads one answer.

    Text that may be the beginning of a call is held back until it is known whether it is. What turns out not to be one
    is content. White space beside a call belongs to the call.

    Attributes:
        num_calls: calls that have begun.
        is_open: whether the arguments of the last one aren't whole.
    """

    def __init__(self, place: _Place) -> None:
        self.num_calls = 0
        self.is_open = False
        self._place = place
        self._held = ""
        self._content: list[str] = []
        self._calls: list[CallDelta] = []
        self._arguments = JsonObject()
        self._after_call = False
        """Whether the text goes on right behind a call, where white space isn't content."""
        self._has_content = False

    def feed(self, text: str, *, final: bool = False) -> Parsed:
        """Take the next text of the answer; with `final` it is the last."""
        self._held += text
        while self._held and self._advance():
            pass
        if final:
            self._finish()
        parsed = Parsed("".join(self._content), tuple(self._calls))
        self._content, self._calls = [], []
        return parsed

    def _advance(self) -> bool:
        """Take what can be taken off the held text, one part of it at a time. Returns whether to go on."""
        if self._place is _Place.TEXT:
            return self._take_text()
        if self._place is _Place.HEAD:
            return self._take_head()
        return self._take_arguments() if self._place is _Place.ARGUMENTS else self._take_tail()

    @abstractmethod
    def _take_text(self) -> bool:
        """Take content."""

    @abstractmethod
    def _take_head(self) -> bool:
        """Take the beginning of a call, up to its arguments."""

    @property
    @abstractmethod
    def _tail(self) -> tuple[str, ...]:
        """What follows the arguments."""

    def _take_arguments(self) -> bool:
        end = self._arguments.end_in(self._held)
        part, self._held = self._held[:end], "" if end is None else self._held[end:]
        self._calls.append(CallDelta(self.num_calls - 1, None, part))
        if end is not None:
            self.is_open, self._place = False, _Place.TAIL
        return True

    def _take_tail(self) -> bool:
        tail = read_head(self._held, self._tail)
        if tail.fit is Fit.PARTIAL:
            return False
        self._held = self._held[tail.length :]
        self._place, self._after_call = _Place.TEXT, True
        return True

    def _begin_call(self, head: Head) -> None:
        self._held = self._held[head.length - 1 :]  # the brace is the arguments' own
        self._calls.append(CallDelta(self.num_calls, head.name, ""))
        self._arguments = JsonObject()
        self._place = _Place.ARGUMENTS
        self.num_calls += 1
        self.is_open = True

    def _give(self, content: str) -> None:
        if self._after_call:
            content = content.lstrip(SPACE)
            if content and self._has_content:
                content = "\n" + content
        if content:
            self._content.append(content)
            self._after_call, self._has_content = False, True

    def _finish(self) -> None:
        """The answer has ended: what is held may have been the beginning of a call, and isn't one."""
        if self._place in (_Place.TEXT, _Place.HEAD):
            self._give(self._held)
        self._held = ""


class MarkedParser(CallParser):
    """Calls between two marks, each `{"name": ..., "arguments": {...}}`, with any text around them.

    Args:
        begin: what a call begins with.
        end: what it ends with.
    """

    _HEAD = ("{", '"name"', ":", None, ",", '"arguments"', ":", "{")

    def __init__(self, begin: str, end: str) -> None:
        super().__init__(_Place.TEXT)
        self._begin = begin
        self._end = end
        self._mark = ""
        """The mark of a call that may have begun, with the white space before it; content if it hasn't."""

    @property
    def _tail(self) -> tuple[str, ...]:
        return "}", self._end

    def _take_text(self) -> bool:
        before, mark, after = self._held.partition(self._begin)
        if not mark:
            num_free = len(self._held) - num_undecided(self._held, self._begin)
            self._give(self._held[:num_free])
            self._held = self._held[num_free:]
            return False
        content = before.rstrip(SPACE)
        self._give(content)
        self._mark = before[len(content) :] + mark
        self._held, self._place = after, _Place.HEAD
        return True

    def _take_head(self) -> bool:
        head = read_head(self._held, self._HEAD)
        if head.fit is Fit.PARTIAL:
            return False
        if head.fit is Fit.NONE:
            self._give(self._mark)
            self._place = _Place.TEXT
        else:
            self._begin_call(head)
        return True

    def _finish(self) -> None:
        if self._place is _Place.HEAD:
            self._give(self._mark)
        super()._finish()


class BareParser(CallParser):
    """An answer that is nothing but one call, `{"name": ..., "parameters": {...}}`.

    An answer that begins like this with the name of a function that there isn't is content, as any other text.

    Args:
        names: the functions that there are.
    """

    _HEADS = (
        ("{", '"name"', ":", None, ",", '"parameters"', ":", "{"),
        ("{", '"type"', ":", '"function"', ",", '"name"', ":", None, ",", '"parameters"', ":", "{"),
    )
    _tail = ("}",)

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(_Place.HEAD)
        self._names = names

    def _take_text(self) -> bool:
        self._give(self._held)
        self._held = ""
        return False

    def _take_head(self) -> bool:
        heads = [read_head(self._held, parts) for parts in self._HEADS]
        for head in heads:
            if head.fit is Fit.WHOLE and head.name in self._names:
                self._begin_call(head)
                return True
        if any(head.fit is Fit.PARTIAL for head in heads):
            return False
        self._place = _Place.TEXT
        return True
