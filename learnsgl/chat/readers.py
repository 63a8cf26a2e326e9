"""Where the lines of a chat come from: a person at a terminal, or a pipe.

`run.py` makes one; the shell asks it for line after line. `EOFError` ends the chat, `KeyboardInterrupt` a line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


class Reader(Protocol):
    """Gives the lines of a chat."""

    def read(self) -> str:
        """The next line.

        Raises:
            EOFError: there is no more.
            KeyboardInterrupt: Ctrl-C; the line that was being written is dropped.
        """
        ...


class TerminalReader:
    """A person: with editing, history, and completion of commands.

    Args:
        commands: the words that are completed.
        history_file: where lines are kept from chat to chat.
    """

    def __init__(self, commands: Sequence[str], history_file: Path) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=open_history(history_file),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=True,
            reserve_space_for_menu=len(commands),
            key_bindings=_key_bindings(),
        )

    def read(self) -> str:
        """As `Reader.read`."""
        return self._session.prompt("> ")


class PipeReader:
    """A file or a pipe, line by line.

    Args:
        stream: standard input, in UTF-8.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self) -> str:
        """As `Reader.read`."""
        line = self._stream.readline()
        if not line:
            raise EOFError
        return line.decode(errors="replace")


def open_history(path: Path) -> History:
    """The history in a file that only this user can read; one that ends with the chat where it can't be written."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        return FileHistory(str(path))
    return InMemoryHistory()


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
