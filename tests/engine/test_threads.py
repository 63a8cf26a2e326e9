"""How long idle threads of PyTorch's operators wait, which has to be settled before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HELP = "from learnsgl.engine import SHORT_WAITS; import os, sys; "
SHOW = "print(SHORT_WAITS, os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


def run(program: str, **environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**inherited, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_waits_are_short_when_the_engine_comes_first() -> None:
    assert run(HELP + SHOW) == ["True", "4000", "False"]


@pytest.mark.parametrize(("name", "shown"), [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "None")])
def test_what_the_user_has_set_stays(name: str, shown: str) -> None:
    assert run(HELP + SHOW, **{name: "77" if shown == "77" else "PASSIVE"}) == ["True", shown, "False"]


def test_it_is_known_when_torch_came_first() -> None:
    assert run("import torch; " + HELP + SHOW) == ["False", "None", "True"]
