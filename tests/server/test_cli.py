"""The command line: help, errors and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from learnsgl import cli
from learnsgl.config import Config
from learnsgl.errors import EngineError, PortInUseError


def test_help_names_every_command_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text for command in ("serve", "demo", "model", "trace"))
    assert "learnsgl serve --trace traces" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--prot", "80"], ["--prot", "did you mean --port?"]),
        (["serve", "--no-overlapp"], ["did you mean --no-overlap?"]),
        (["serve", "--mod", "x"], ["unrecognized arguments: --mod"]),
        (["serve", "--port", "eighty"], ["--port is 'eighty'", "a whole number"]),
        (["serve", "--port", "65536"], ["--port is 65536", "at most 65535"]),
        (["serve", "--policy", "best"], ["--policy is 'best'", "prefill-first, mixed"]),
        (["serve", "--memory-ratio", "nan"], ["--memory-ratio is nan"]),
        (["sever"], ["sever", "serve"]),
        ([], ["COMMAND"]),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("learnsgl: error: ")
    assert text.count("\n") == 1
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("error", "code"), [(PortInUseError("taken"), 3), (EngineError("broke"), 4), (KeyboardInterrupt(), 130)]
)
def test_errors_become_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def fail(config: Config) -> None:
        raise error

    monkeypatch.setattr("learnsgl.server.launch.launch_server", fail)
    assert cli.main(["serve"]) == code


def test_serve_passes_every_option_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("learnsgl.server.launch.launch_server", given.append)
    assert cli.main(["serve", "--port", "0", "--no-overlap", "--page-size", "16", "--trace", "t"]) == 0
    (config,) = given
    assert (config.server.port, config.scheduler.overlap, config.engine.page_size) == (0, False, 16)
    assert str(config.trace.trace) == "t"


@pytest.mark.parametrize(
    "module", ["learnsgl.server.launch", "learnsgl.tokenizer.worker", "learnsgl.scheduler.worker", "learnsgl.cli"]
)
def test_no_torch(module: str) -> None:
    """Only the engine's process may load torch; loading a tokenizer must not either."""
    code = f"import sys, {module}; from learnsgl import cli; cli.make_parser(); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr


def test_the_parent_loads_no_more_than_it_needs() -> None:
    code = "import sys, learnsgl.server.launch; assert not {'torch', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
