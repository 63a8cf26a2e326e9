"""The chat itself: reads lines, obeys commands, puts questions, and prints answers as they come.

`run.py` makes one and runs it. Where lines come from and which server answers is decided there.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from learnsgl.chat.client import ChatClient, Reply
from learnsgl.chat.readers import Reader
from learnsgl.chat.stats import measured, recorded
from learnsgl.errors import RequestError, ServingError
from learnsgl.terminal import harmless

COMMANDS: Mapping[str, str] = {
    "/reset": "forget the conversation; the system message stays",
    "/system": "/system TEXT sets the system message, /system alone removes it",
    "/stats": "the last answer in numbers: TTFT, TPOT, tokens of the prompt that came from the cache",
    "/help": "this list",
    "/exit": "leave, as Ctrl-D does",
}


@dataclass(frozen=True)
class Partner:
    """Whom the chat speaks with.

    Attributes:
        client: the way to the server.
        model: name of the model there.
        options: sampling fields of each request.
        trace_folder: the server's own recording, where it is on this machine and known.
        last_words: what to tell when the server is gone; empty where nobody knows why.
    """

    client: ChatClient
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    trace_folder: Path | None = None
    last_words: Callable[[], str] = lambda: ""


class Shell:
    """A chat.

    Args:
        partner: who answers.
        reader: where lines come from.
        out: where answers go.
        interactive: whether a person writes the lines; otherwise the first fault of the server ends the chat.
        system: the system message.
    """

    def __init__(
        self, partner: Partner, reader: Reader, out: TextIO, *, interactive: bool, system: str | None = None
    ) -> None:
        self._partner = partner
        self._reader = reader
        self._out = out
        self._interactive = interactive
        self._system = system
        self._turns: list[dict[str, str]] = []
        self._last: Reply | None = None
        self._num_refused = 0
        self._commands: dict[str, Callable[[str], bool]] = {
            "/reset": self._reset, "/system": self._set_system, "/stats": self._stats, "/help": self._help,
            "/exit": lambda rest: False,
        }  # fmt: skip

    def run(self) -> int:
        """Chat until the lines end.

        Returns:
            The exit code: 0, or 1 where a line of a script was refused.

        Raises:
            ServingError: the server has gone, and the chat is not interactive, or the server was its own.
        """
        goes_on = True
        while goes_on:
            try:
                goes_on = self._obey(self._reader.read().rstrip("\n"))
            except EOFError:
                break
            except KeyboardInterrupt:  # at the prompt, or just as an answer had ended
                if not self._interactive:
                    raise
                self._note("(Ctrl-D or /exit leaves)")
        return 0 if self._interactive or not self._num_refused else 1

    def _obey(self, line: str) -> bool:
        """Do what a line says; false when the chat is to end."""
        if not line.strip():
            return True
        if not line.startswith("/"):
            self._ask(line.strip())
            return True
        word, _, rest = line.partition(" ")
        if word in self._commands:
            return self._commands[word](rest.strip())
        close = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; /help lists the commands"
        self._refuse(f"there is no {word}{hint} (a question that begins with a slash needs a space ahead of it)")
        return True

    # ------------------------------------------------------------ questions

    def _ask(self, question: str) -> None:
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        # a terminal may send bytes that are no text, and JSON takes text only
        asked = {"role": "user", "content": question.encode(errors="replace").decode()}
        reply = Reply()
        try:
            self._print_answer(reply, [*system, *self._turns, asked])
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            self._note("(stopped)")
        except RequestError as error:
            more = "; /reset begins anew" if error.code == "context_length_exceeded" else ""
            self._refuse(f"the server refuses: {error}{more}")
            return
        except ServingError as error:
            self._lost(error)
        self._last = reply
        if reply.text:  # also the part of an answer that was stopped: it has been read
            self._turns += [asked, {"role": "assistant", "content": reply.text}]

    def _print_answer(self, reply: Reply, messages: list[dict[str, str]]) -> None:
        partner = self._partner
        try:
            for text in partner.client.ask(reply, partner.model, messages, partner.options):
                self._out.write(harmless(text) if self._interactive else text)
                self._out.flush()
        finally:
            if reply.text:
                self._out.write("\n")
                self._out.flush()
        if reply.finish_reason == "length":
            self._note("(cut off: --max-tokens, or the model's context, was reached)")

    def _lost(self, error: ServingError) -> None:
        """The server has gone: tell it, and go on only where it may come back."""
        words = self._partner.last_words()
        if words or not self._interactive:
            raise ServingError(f"{error}{words}") from error
        self._note(f"{error}; ask again when it is back, or leave with Ctrl-D")

    # ------------------------------------------------------------ commands

    def _reset(self, rest: str) -> bool:
        self._turns.clear()
        self._note("(the conversation is forgotten)")
        return True

    def _set_system(self, text: str) -> bool:
        self._system = text or None
        self._note("(the system message is set)" if text else "(there is no system message now)")
        return True

    def _stats(self, rest: str) -> bool:
        if self._last is None:
            self._note("(there is no answer yet)")
            return True
        folder = self._partner.trace_folder
        stats = recorded(self._last, folder) if folder is not None else None
        print(stats or measured(self._last), file=self._out, flush=True)
        return True

    def _help(self, rest: str) -> bool:
        for word, what in COMMANDS.items():
            print(f"  {word:8} {what}", file=self._out)
        print(
            "  Ctrl-C stops an answer; Alt-Enter begins a new line; the arrow keys bring old lines back", file=self._out
        )
        return True

    def _refuse(self, text: str) -> None:
        self._num_refused += 1
        self._note(text)

    def _note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
