"""The Makefile, with a Python that only notes what it is asked to do: what is installed when, how faults are told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FAKE_PYTHON = """\
#!/bin/sh
# Notes its arguments in ../calls, beside the checkout; makes .venv hold itself; fails as the files beside it tell.
echo "$*" >>../calls
case "$*" in
  '-c import sys'*) test ! -e ../too-old ;;
  '--version') echo 'Python 3.9.1' ;;
  '-m venv .venv') mkdir -p .venv/bin; cp "$0" .venv/bin/python; test ! -e ../no-ensurepip ;;
  '-m pip install'*) echo 'Downloading torch-9-any.whl (190.1 MB)'; test ! -e ../no-network ;;
  *) exit 0 ;;
esac
"""


class Checkout:
    """A folder with a space in its name, with the Makefile and nothing to install."""

    def __init__(self, tmp_path: Path) -> None:
        self.top = tmp_path
        self.folder = tmp_path / "a checkout"
        self.folder.mkdir()
        shutil.copy(ROOT / "Makefile", self.folder)
        (self.folder / "pyproject.toml").write_text("[project]\n")
        self.python = tmp_path / "fake python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run make; `calls` holds what Python was asked to do in it."""
        (self.top / "calls").write_text("")
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "ARGS"}
        return subprocess.run(
            ["make", f"PYTHON={self.python}", *words], cwd=self.folder, capture_output=True, text=True, env=env,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    @property
    def calls(self) -> list[str]:
        lines = (self.top / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith("-m") and "pip --version" not in line]

    def given(self, fault: str, *, holds: bool = True) -> None:
        (self.top / fault).touch() if holds else (self.top / fault).unlink()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


INSTALL = "-m pip install --disable-pip-version-check --no-input --editable .[demo]"


def test_the_first_demo_installs_and_the_second_starts_at_once(checkout: Checkout) -> None:
    first = checkout.make("demo")
    assert first.returncode == 0, first.stderr
    assert checkout.calls == ["-m venv .venv", INSTALL, "-m learnsgl demo"]
    assert "Downloading torch-9-any.whl (190.1 MB)" in first.stdout
    assert checkout.make("demo", "ARGS=--out x").returncode == 0
    assert checkout.calls == ["-m learnsgl demo --out x"]


def test_a_larger_extra_counts_for_the_smaller_ones(checkout: Checkout) -> None:
    assert checkout.make("lab").returncode == 0
    assert checkout.make("demo").returncode == 0
    assert checkout.make("serve").returncode == 0
    assert checkout.calls == ["-m learnsgl serve"]


def test_a_changed_pyproject_installs_again(checkout: Checkout) -> None:
    checkout.make("demo")
    stamp = checkout.folder / ".venv" / ".installed-demo"
    os.utime(checkout.folder / "pyproject.toml", ns=(stamp.stat().st_mtime_ns + 10**9,) * 2)
    checkout.make("demo")
    assert checkout.calls == [INSTALL, "-m learnsgl demo"]


def test_an_install_that_was_cut_off_is_made_anew(checkout: Checkout) -> None:
    checkout.make("demo")
    venv = checkout.folder / ".venv"
    (venv / ".installed-demo").unlink()
    (venv / ".installing").touch()
    (venv / "half").touch()
    result = checkout.make("demo")
    assert "cut off" in result.stdout
    assert checkout.calls == ["-m venv .venv", INSTALL, "-m learnsgl demo"]
    assert not (venv / "half").exists()


def test_an_install_that_failed_fails_the_command_and_is_tried_again(checkout: Checkout) -> None:
    checkout.given("no-network")
    failed = checkout.make("demo")
    assert failed.returncode != 0
    assert "The install failed" in failed.stderr
    assert checkout.calls[-1] == INSTALL
    checkout.given("no-network", holds=False)
    assert checkout.make("demo").returncode == 0
    assert checkout.calls == [INSTALL, "-m learnsgl demo"], "a failure leaves a sound .venv, so it stays"


def test_a_python_that_does_not_fit_is_named(checkout: Checkout) -> None:
    checkout.given("too-old")
    result = checkout.make("demo")
    assert result.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in result.stderr
    assert "Python 3.9.1" in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_a_python_that_is_not_there_is_named(checkout: Checkout) -> None:
    checkout.python.unlink()
    result = checkout.make("demo")
    assert result.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in result.stderr


def test_a_system_without_venv_is_told_what_to_install(checkout: Checkout) -> None:
    checkout.given("no-ensurepip")
    result = checkout.make("demo")
    assert result.returncode != 0
    assert "apt install python3-venv" in result.stderr
    assert not (checkout.folder / ".venv").exists(), "half of one is worse than none"


def test_help_teaches_every_command(checkout: Checkout) -> None:
    makefile = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    text = checkout.make().stdout
    assert [target for target in targets.split() if target != "help" and f"make {target}" not in text] == []
    assert checkout.calls == [], "help installs nothing"


def test_types_are_checked_in_every_torch_free_room() -> None:
    typed = subprocess.run(
        ["make", "-f", ROOT / "Makefile", "-n", "-o", ".venv/.installed-test", "test"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    from tests.test_house_rules import TORCH_FREE, files_of

    rooms = [room for room in TORCH_FREE if files_of(room)]
    assert [room for room in rooms if not re.search(rf"learnsgl/{room}(\.py)?\s", typed)] == []
