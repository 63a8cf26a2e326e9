"""`learnsgl doctor` on the command line."""

from __future__ import annotations

import json
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
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNSGL_HOME", str(tmp_path / "home"))


def test_every_check_is_one_line_and_torch_stays_in_another_process() -> None:
    code = (
        "import sys; from learnsgl.cli import main; code = main(['doctor', '--port', '0']); "
        "print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    *lines, summary, has_torch = done.stdout.splitlines()
    assert has_torch == "False", done.stderr
    heads = [line.split()[:2] for line in lines if not line.startswith(" ")]
    assert [name for _, name in heads] == [check.name for check in CHECKS]
    faults = [line for line in lines if line.startswith("fault")]
    assert done.returncode == (1 if faults else 0), faults
    assert "ok" in summary


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
    names = [check.name for check in CHECKS if check.name not in {"torch", "gpu", "triton"}]  # they take seconds
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES, "doctor", "--json", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert [check["check"] for check in report["checks"]] == names
    said = {check["check"]: check for check in report["checks"]}
    assert said["python"]["status"] == "ok"
    assert "GLIBCXX_3.4.31" in said["memory"]["said"], "psutil can't be loaded here"


def test_any_other_command_names_the_doctor_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES, "model", "ls"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "a package can't be loaded: " in done.stderr
    assert done.stderr.endswith("version `GLIBCXX_3.4.31' not found; for the remedy: learnsgl doctor\n")
