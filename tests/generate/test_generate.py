"""`learnsgl generate`: every way in, every way out, and what it refuses before it loads a model."""

from __future__ import annotations

import functools
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learnsgl import cli
from learnsgl.llm import LLM
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.llm.echo import ECHO, INTERRUPTED
from tests.server.echo_executor import CONTEXT_LEN, echo

REPOSITORY = Path(__file__).parents[2]
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process, with an executor that repeats the prompt."""

    def run(*words: str, stdin: str | bytes | None = None, executor: str = ECHO) -> int:
        monkeypatch.setattr("learnsgl.generate.run.LLM", functools.partial(LLM, executor_factory=executor))
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return cli.main(["generate", "--model", "tiny-random", *words])

    return run


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**options: Any) -> None:
        raise AssertionError("no model is to be loaded")

    monkeypatch.setattr("learnsgl.generate.run.LLM", load)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_prompt_gives_its_answer_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("abc", "--max-tokens", "7") == 0
    assert capsys.readouterr().out == echo("abc", 7) + "\n"


def test_several_prompts_are_answered_in_order_under_headings(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("abc", "x " * 60, "--max-tokens", "3") == 0
    heading = ("x " * 36)[:71] + "…"
    assert capsys.readouterr().out == f"[1] abc\nabc\n\n[2] {heading}\nx x\n\n"


def test_json_lines_hold_the_attributes_of_a_completion(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("abc", "d", "--jsonl", "--max-tokens", "2", "--stop", "b") == 0
    first, second = json_lines(capsys.readouterr().out)
    assert (first["index"], first["text"], first["finish_reason"], first["num_prompt_tokens"]) == (0, "a", "stop", 3)
    assert (second["text"], second["finish_reason"], second["num_generated_tokens"]) == ("dd", "length", 2)
    assert first["error"] is None
    assert {"ttft_s", "tpot_s", "total_s", "num_cached_tokens"} <= first.keys()


def test_a_file_of_lines(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("ab\r\n\n  \ncd", encoding="utf-8")
    assert run("xy", "--file", str(tmp_path / "prompts.txt"), "--jsonl", "--max-tokens", "3") == 0
    assert [line["text"] for line in json_lines(capsys.readouterr().out)] == ["xyx", "aba", "cdc"]


def test_a_pipe_of_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"id": "q1", "prompt": "ab", "max_tokens": 4, "stop": "q"},
        {"prompt": [97, 98, 99], "temperature": 1, "seed": 3},
        {"id": 7, "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 5},
    ]
    stdin = "\n".join(json.dumps(line) for line in lines)
    assert run("--jsonl", "--max-tokens", "2", stdin=stdin) == 0
    results = json_lines(capsys.readouterr().out)
    assert [(result.get("id"), result["text"]) for result in results] == [("q1", "abab"), (None, "ab"), (7, "user")]


def test_a_pipe_of_lines_may_hold_braces(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--jsonl", "--input", "lines", "--max-tokens", "2", stdin="{a\n{b\n") == 0
    assert [result["text"] for result in json_lines(capsys.readouterr().out)] == ["{a", "{b"]


def test_chats_and_their_system_message(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    stdin = '{"prompt": "Q"}\n{"messages": [{"role": "user", "content": "R"}]}'
    words = ("--chat", "--system", "S", "--jsonl", "--ignore-eos", "--max-tokens", "30", "--input", "jsonl")
    assert run("P", "--file", "-", *words, stdin=stdin) == 0
    first, second, third = [result["text"] for result in json_lines(capsys.readouterr().out)]
    assert first.startswith("system\nS\nuser\nP\nassistant")
    assert second.startswith("system\nS\nuser\nQ\nassistant")
    assert third.startswith("user\nR\nassistant"), "a line with messages says all that it has to say"


def test_results_go_to_a_file_whole(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("what was there before\n", encoding="utf-8")
    assert run("ab", "cd", "--jsonl", "--max-tokens", "2", "-o", str(path)) == 0
    assert capsys.readouterr().out == ""
    assert [result["text"] for result in json_lines(path.read_text(encoding="utf-8"))] == ["ab", "cd"]
    assert run("ab", "--model", "no-such-model", "-o", str(path)) == 3
    assert "ab" in path.read_text(encoding="utf-8"), "old results stay until there are new ones"


def test_a_prompt_that_cannot_be_answered_costs_only_itself(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ab", "x" * CONTEXT_LEN, "--jsonl", "--max-tokens", "2") == 1
    captured = capsys.readouterr()
    good, bad = json_lines(captured.out)
    assert (good["text"], bad["text"], bad["error"]["code"]) == ("ab", "", "context_length_exceeded")
    assert "1 of 2 prompts could not be answered" in captured.err
    assert run("ab", "x" * CONTEXT_LEN, "--max-tokens", "2") == 1
    assert "\nerror: the prompt is 256 tokens long" in capsys.readouterr().out
    assert run("x" * CONTEXT_LEN) == 1
    assert "learnsgl: error: the prompt is 256 tokens long" in capsys.readouterr().err


def test_it_is_recorded_without_what_was_asked(run: Run, tmp_path: Path) -> None:
    assert run("a secret", "--trace", str(tmp_path), "--max-tokens", "2") == 0
    trace = Trace.open(tmp_path)
    assert verify(trace).is_whole
    assert "secret" not in json.dumps(trace.manifest)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "holds a list; each line must be a JSON object"),
        ("{}", "has neither of prompt and messages"),
        ('{"prompt": "a", "messages": []}', "has both of prompt and messages"),
        ('{"prompt": "a", "temprature": 0}', "unknown field temprature; did you mean temperature?"),
        ('{"prompt": "a", "temperature": -1}', "temperature is -1.0; it must be between 0 and 100"),
        ('{"prompt": "a", "stream": true}', "has stream, and results come whole"),
        ('{"prompt": "a", "n": 2}', "n is 2; a line has one result"),
        ('{"prompt": ""}', "prompt is empty"),
        ('{"prompt": "a", "model": "gpt-4"}', "the model 'gpt-4' does not exist"),
        ('{"messages": [{"content": "Hi"}]}', "the field messages[0].role is missing"),
        (
            '{"messages": [{"role": "user", "content": "a"}], '
            '"tools": [{"type": "function", "function": {"name": "f"}}]}',
            "has tools, and a result is text",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"enable_thinking": false}}',
            "has add_generation_prompt, continue_final_message or chat_template_kwargs, which only a server takes",
        ),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    data = f'{{"prompt": "fine"}}\n{line}\n'.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    assert cli.main(["generate", "--model", "tiny-random"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("learnsgl: error: standard input, line 2: ")
    assert said in error
    assert "nothing was answered" in error


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no prompt; give at least one in standard input"),
        (["--file", "no/such/file"], "--file no/such/file can't be read: No such file"),
        (["a", "--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
        (["a", "--top-p", "2"], "--top-p is 2.0; it must be above 0"),
        (["a", "--system", "S"], "--system is given without --chat"),
        (["a", "--temprature", "1"], "did you mean --temperature?"),
        (["a", "--port", "1"], "unrecognized arguments: --port"),
        (["a", "-o", "no/such/folder/file"], "--output no/such/folder/file can't be written"),
    ],
)
def test_wrong_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n"), encoding="utf-8"))
    assert cli.main(["generate", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_bytes_that_are_no_text_are_refused_with_their_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\xff\n"), encoding="utf-8"))
    assert cli.main(["generate"]) == 2
    assert "standard input, line 2: byte 0xff isn't UTF-8" in capsys.readouterr().err


def test_ctrl_c_prints_what_is_finished(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    stdin = '{"prompt": "ab", "max_tokens": 100}\n{"prompt": "cd", "max_tokens": 2}\n{"prompt": "ef", "max_tokens": 90}'
    assert run("--jsonl", stdin=stdin, executor=INTERRUPTED) == 130
    captured = capsys.readouterr()
    assert [(result["index"], result["text"]) for result in json_lines(captured.out)] == [(1, "cd")]
    assert "interrupted: 1 of 3 prompts were finished" in captured.err


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.generate.generate_echo", *words],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_real_ctrl_c_ends_a_real_process() -> None:
    with start("ab", "--seed", "20", "--max-tokens", "200") as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == "aba", "it comes as it is generated"
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    assert rest.endswith("\n")


def test_a_reader_that_leaves_ends_it_in_silence() -> None:
    with start(*("ab", "cd", "ef"), "--seed", "20", "--jsonl", "--max-tokens", "40", "--quiet") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_the_bar_appears_without_a_terminal_when_it_takes_long(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learnsgl.offline.progress.DELAY_S", 0.0)
    assert run("a", "b", "--seed", "5", "--max-tokens", "4") == 0
    assert "2/2 prompts" in capfd.readouterr().err
    assert run("a", "b", "--seed", "5", "--max-tokens", "4", "--quiet") == 0
    assert capfd.readouterr().err == ""


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "learnsgl generate --file in.jsonl --jsonl -o out.jsonl" in text
    assert "--max-prefill-length" in text
    assert "--port" not in text


def test_nothing_of_the_command_line_loads_torch() -> None:
    code = (
        "import sys, learnsgl.llm, learnsgl.generate.run, learnsgl.chat.run; from learnsgl import cli; "
        "cli.make_parser(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
