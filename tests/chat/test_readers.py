"""Lines from a person, through prompt_toolkit, and from a pipe."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from learnsgl.chat.readers import PipeReader, TerminalReader, open_history


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


def test_editing_and_a_second_line(keys: PipeInput, tmp_path: Path) -> None:
    reader = TerminalReader([], tmp_path / "history")
    keys.send_text("Hellp\x7fo\x1b\rthere\r")
    assert reader.read() == "Hello\nthere"


def test_old_lines_come_back_in_a_new_chat(keys: PipeInput, tmp_path: Path) -> None:
    history = tmp_path / "cache" / "history"
    keys.send_text("first\r")
    TerminalReader([], history).read()
    assert history.stat().st_mode & 0o777 == 0o600, "what was asked is for nobody else's eyes"
    reader = TerminalReader([], history)
    keys.send_text("\x1b[A again\r")
    assert reader.read() == "first again"


def test_ctrl_c_and_ctrl_d(keys: PipeInput, tmp_path: Path) -> None:
    reader = TerminalReader([], tmp_path / "history")
    keys.send_text("never\x03")
    with pytest.raises(KeyboardInterrupt):
        reader.read()
    keys.send_text("\x04")
    with pytest.raises(EOFError):
        reader.read()


def test_a_history_that_cannot_be_kept_does_not_stop_the_chat(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert isinstance(open_history(tmp_path / "file" / "history"), InMemoryHistory)
    assert isinstance(open_history(tmp_path / "history"), FileHistory)


def test_a_pipe_gives_its_lines() -> None:
    reader = PipeReader(io.BytesIO("ä\n\n".encode() + b"\xffb"))
    assert [reader.read() for _ in range(3)] == ["ä\n", "\n", "\ufffdb"]
    with pytest.raises(EOFError):
        reader.read()
