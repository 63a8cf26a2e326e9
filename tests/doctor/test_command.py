"""`learnsgl doctor` on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from learnsgl import cli
from learnsgl.doctor.checks import CHECKS

WITHOUT_PACKAGES = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "learnsgl"}:
            raise ImportError(f"{name}: version `GLIBCXX_3.4.31' not found")

sys.meta_path.insert(0, Refuse())
from learnsgl.cli import main
sys.exit(main(["doctor", "--json"]))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNSGL_HOME", str(tmp_path / "home"))


def test_every_check_is_one_line_and_a_good_machine_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--port", "0"])
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split()[:2] for line in lines if line and not line.startswith(" ")][:-1]
    assert [name for _, name in heads] == [check.name for check in CHECKS]
    faults = [line for line in lines if line.startswith("fault")]
    assert code == (1 if faults else 0), faults
    assert "ok" in lines[-1]


def test_chosen_checks_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "sockets", "python", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [check["check"] for check in report["checks"]] == ["python", "sockets"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["phyton"], "there is no check 'phyton'"),
        (["--prefix", ".", "port"], "with --prefix there are only: libstdcxx"),
        (["--prefix", "no-such-folder"], "--prefix no-such-folder is no folder"),
        (["--port", "70000"], "from 0 to 65535"),
    ],
)
def test_what_cannot_be_looked_at_is_said_so(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err


def test_it_speaks_where_no_package_can_be_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES], capture_output=True, text=True, check=False, env=os.environ.copy()
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert [check["check"] for check in report["checks"]] == [check.name for check in CHECKS]
    said = {check["check"]: check for check in report["checks"]}
    assert said["python"]["status"] == "ok"
    assert "GLIBCXX_3.4.31" in said["memory"]["said"], "psutil can't be loaded here"


def test_it_never_loads_torch_itself() -> None:
    code = (
        "import sys; from learnsgl.cli import main; main(['doctor', '--port', '0']); "
        "assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
