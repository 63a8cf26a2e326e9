"""The shell: conversations, commands, refusals, and Ctrl-C, on a server made of functions."""

from __future__ import annotations

import io

import httpx
import pytest

from learnsgl.chat.shell import COMMANDS, Partner, Shell
from learnsgl.errors import ServingError
from tests.chat.talk import Lines, Server, chunk, refuse, stream, whole


class Chat:
    """A chat that has ended: its exit code and what was printed."""

    def __init__(
        self, server: Server, *lines: str | type[BaseException], interactive: bool = True, system: str | None = None
    ) -> None:
        out = io.StringIO()
        partner = Partner(server.client(), "m")
        self.code = Shell(partner, Lines(*lines), out, interactive=interactive, system=system).run()
        self.out = out.getvalue()


def contents(body: dict[str, list[dict[str, str]]]) -> list[str]:
    return [f"{message['role']}: {message['content']}" for message in body["messages"]]


def test_a_conversation_goes_along_until_it_is_reset() -> None:
    server = Server(whole("Hel", "lo"), whole("Fine"), whole("Who?"))
    chat = Chat(server, "Hi", "How are you?", "/reset", "And now?", system="Be brief")
    assert chat.code == 0
    assert chat.out == "Hello\nFine\nWho?\n"
    assert [contents(body) for body in server.asked] == [
        ["system: Be brief", "user: Hi"],
        ["system: Be brief", "user: Hi", "assistant: Hello", "user: How are you?"],
        ["system: Be brief", "user: And now?"],
    ]


def test_the_system_message_is_set_and_removed() -> None:
    server = Server(whole("a"), whole("b"))
    Chat(server, "/system Be kind", "1", "/system", "2")
    assert [contents(body)[0] for body in server.asked] == ["system: Be kind", "user: 1"]


def test_ctrl_c_stops_the_answer_and_not_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(
        stream(chunk("Once upon"), KeyboardInterrupt()), whole("More"), stream(KeyboardInterrupt()), whole()
    )
    chat = Chat(server, "Tell", "Go on", "Nothing", "Last")
    assert chat.out == "Once upon\nMore\n"
    assert capsys.readouterr().err.count("(stopped)") == 2
    assert contents(server.asked[1]) == ["user: Tell", "assistant: Once upon", "user: Go on"]
    assert contents(server.asked[3])[-2:] == ["assistant: More", "user: Last"], "a question without answer is dropped"


def test_ctrl_c_at_the_prompt_drops_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert Chat(Server(whole("a")), KeyboardInterrupt, "Hi").out == "a\n"
    assert "Ctrl-D or /exit leaves" in capsys.readouterr().err


def test_a_script_is_ended_by_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt):
        Chat(Server(stream(KeyboardInterrupt())), "Hi", interactive=False)
    with pytest.raises(KeyboardInterrupt):
        Chat(Server(), KeyboardInterrupt, interactive=False)


def test_a_refused_question_is_not_part_of_the_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(refuse(400, "context_length_exceeded", "too long"), whole("a"))
    chat = Chat(server, "long", "short", interactive=False)
    assert (chat.code, chat.out) == (1, "a\n")
    assert contents(server.asked[1]) == ["user: short"]
    assert "the server refuses: too long; /reset begins anew" in capsys.readouterr().err


def test_a_server_that_goes_away_is_told_and_may_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(stream(chunk("Once"), httpx.ReadError("gone")), httpx.ConnectError("refused"), whole("back"))
    assert Chat(server, "1", "2", "3").out == "Once\nback\n"
    error = capsys.readouterr().err
    assert "broke: gone; ask again when it is back" in error
    assert "nobody answers" in error


def test_a_script_ends_with_its_server() -> None:
    with pytest.raises(ServingError, match="nobody answers"):
        Chat(Server(httpx.ConnectError("refused")), "1", "2", interactive=False)


def test_the_end_of_a_server_of_its_own_ends_the_chat_with_its_last_words() -> None:
    partner = Partner(Server(httpx.ConnectError("refused")).client(), "m", last_words=lambda: "; it fell over")
    with pytest.raises(ServingError, match=r"refused.*; it fell over"):
        Shell(partner, Lines("Hi"), io.StringIO(), interactive=True).run()


def test_stats_of_the_client_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(Server(whole("a", "b")), "/stats", "Hi", "/stats")
    assert "there is no answer yet" in capsys.readouterr().err
    assert "prompt 40 tokens, 30 of them from the cache · answer 3 tokens\nmeasured by this client\n" in chat.out
    assert "TTFT " in chat.out
    assert " ms · TPOT " in chat.out


def test_help_lists_every_command_and_exit_leaves() -> None:
    chat = Chat(Server(), "/help", "/exit", "never asked")
    assert all(word in chat.out for word in COMMANDS)


def test_an_unknown_command_is_refused_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(Server(whole("a")), "/rest", "/", " /etc is a folder, isn't it?", "", "  ", interactive=False)
    assert (chat.code, chat.out) == (1, "a\n")
    error = capsys.readouterr().err
    assert "there is no /rest; did you mean /reset?" in error
    assert "there is no /; /help lists the commands" in error


def test_what_a_model_writes_cannot_move_the_cursor() -> None:
    wild = "a\x1b[2Jb\x9b1m\tc\nd"
    assert Chat(Server(whole(wild)), "Hi").out == "a\ufffd[2Jb\ufffd1m\tc\nd\n"
    assert Chat(Server(whole(wild)), "Hi", interactive=False).out == wild + "\n"


def test_bytes_that_are_no_text_do_not_break_the_request() -> None:
    server = Server(whole("a"))
    assert Chat(server, "Hi\udcff").out == "a\n"
    assert contents(server.asked[0]) == ["user: Hi?"]


def test_an_answer_that_was_cut_off_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Chat(Server(whole("a", finish_reason="length")), "Hi")
    assert "cut off: --max-tokens" in capsys.readouterr().err
