"""The whole story with the real model, as `make demo` tells it; and a demo that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from learnsgl.demo.questions import QUESTIONS

ROOT = Path(__file__).parents[2]


def start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "learnsgl", "demo", "--out", str(out)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def left_behind(session: int) -> list[str]:
    """Processes of a session that still run."""
    left = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                left.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):  # it ended while we looked
            continue
    return left


@pytest.mark.model
def test_the_demo_holds(tmp_path: Path) -> None:
    demo = start(tmp_path / "out")
    told, _ = demo.communicate(timeout=280)
    assert demo.returncode == 0, told
    assert "The capital of France is Paris." in told
    assert all(f"({question.name})" in told for question in QUESTIONS)
    assert told.count("\nok  ") == 4
    assert "verified: " in told
    assert "not proved" not in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "server.log", "timeline-dark.png", "timeline.png", "trace",
    ]  # fmt: skip
    assert (tmp_path / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "trace" / "manifest.json").read_text())["state"] == "ended"
    assert left_behind(demo.pid) == []


@pytest.mark.model
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "learnsgl ready:"), (signal.SIGTERM, "python -m learnsgl serve")],
    ids=["Ctrl-C while it asks", "SIGTERM while the server starts"],
)
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    demo = start(tmp_path / "out")
    assert demo.stdout is not None
    told = ""
    while not told.rpartition("\n")[2].startswith(moment) and (line := demo.stdout.readline()):
        told += "\n" + line.rstrip()
    demo.send_signal(number)
    told += demo.communicate(timeout=60)[0]
    assert demo.returncode == 128 + number, told
    assert "Traceback" not in told
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left in ([], ["server.log"]), "the signal may come before there is a log"
    assert left_behind(demo.pid) == []
