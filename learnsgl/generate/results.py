"""The results of `learnsgl generate`, in the order of the prompts: as text for people, or as lines of JSON.

`run.py` hands over each completion as it comes; one that is ready before its turn waits here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

import msgspec

from learnsgl.errors import FolderError
from learnsgl.generate.inputs import Item
from learnsgl.offline.completion import Completion
from learnsgl.terminal import harmless

Form = Callable[[Completion, Item], str]

_MAX_HEADING_CHARS = 72


class Results:
    """Writes results in order.

    Args:
        items: the prompts.
        stream: where results go.
        form: makes a result's text, with its line break.

    Attributes:
        num_written: results that are out.
        num_failed: of these, prompts that could not be answered.
    """

    def __init__(self, items: Sequence[Item], stream: TextIO, form: Form) -> None:
        self.num_written = 0
        self.num_failed = 0
        self._items = items
        self._stream = stream
        self._form = form
        self._early: dict[int, Completion] = {}
        self._next = 0

    def add(self, completion: Completion) -> None:
        """Take a completion; writes all whose turn has come."""
        self._early[completion.index] = completion
        while self._next in self._early:
            self._next += 1
            self._write(self._early.pop(self._next - 1))

    def write_early(self) -> None:
        """Write those whose turn will never come, because one before them was cut off."""
        for index in sorted(self._early):
            self._write(self._early.pop(index))

    def _write(self, completion: Completion) -> None:
        try:
            self._stream.write(self._form(completion, self._items[completion.index]))
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FolderError(
                f"result {self.num_written + 1} can't be written: {error.strerror}; those before it are whole"
            ) from error
        self.num_written += 1
        self.num_failed += completion.error is not None


def json_line(completion: Completion, item: Item) -> str:
    """A result as a line of JSON."""
    named = {} if item.id is None else {"id": item.id}
    return msgspec.json.encode(named | completion.to_json()).decode() + "\n"


def text_form(num_items: int, is_terminal: bool) -> Form:
    """How results look as text: the answer alone, or under a heading where there are several."""

    def form(completion: Completion, item: Item) -> str:
        text = completion.text if completion.error is None else f"error: {completion.error}"
        if num_items > 1:
            text = f"[{completion.index + 1}] {_heading(item.shown)}\n{text}\n"
        return (harmless(text) if is_terminal else text) + "\n"

    return form


def _heading(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _MAX_HEADING_CHARS else line[: _MAX_HEADING_CHARS - 1] + "…"
