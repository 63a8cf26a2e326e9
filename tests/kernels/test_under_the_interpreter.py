"""Runs this folder's tests of what kernels compute in a process whose kernels Triton interprets on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNUSED = [word for plugin in ("nbval", "schemathesis", "langsmith_plugin") for word in ("-p", f"no:{plugin}")]
"""Plugins that take seconds to import, and that these tests don't use."""


def test_the_kernels_compute_what_their_references_do() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *UNUSED, "--tb=short", "tests/kernels"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-8000:]}\n{result.stderr[-2000:]}"
    assert " passed" in result.stdout
