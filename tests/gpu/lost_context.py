"""A pytest plugin of `make gpu-check`: after a fault in a kernel, the tests that follow run in another process.

CUDA keeps such a fault: every later call of the process fails with it, and a hundred failures would hide the one that
tells something. pytest-xdist starts another worker in the place of one that ended; without it, the run ends there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import Any

import pytest
import torch

EXIT_CODE = 70


def why_lost() -> str:
    """What the device still says when nothing is asked of it; empty where it is well."""
    try:
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at the device after each failure."""
    report = yield
    if report.failed and (reason := why_lost()):
        told = f"the CUDA context of this process is lost since {item.nodeid}: {reason}"
        if hasattr(item.config, "workerinput"):  # of pytest-xdist, which says no more of it than that it ended
            print(report.longreprtext, told, sep="\n", file=sys.__stderr__, flush=True)
            os._exit(EXIT_CODE)
        item.session.shouldstop = told
    return report
