"""The examples of README.md and docs/api.md, as a reader copies them: each is sent to a running server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from learnsgl.config import BUILT_IN_MODEL
from tests.server.running import MODEL, RunningServer

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/api.md")


def blocks(page: str, language: str = "") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every curl command of the pages; one that goes on in the next line has an open quotation mark."""
    found: list[str] = []
    for page in PAGES:
        for block in blocks(page):
            for line in block.splitlines():
                if found and found[-1].count("'") % 2:
                    found[-1] += f"\n{line}"
                elif line.startswith("curl "):
                    found.append(line)
    return found


def local(text: str, server: RunningServer) -> str:
    assert "http://127.0.0.1:8000" in text
    return text.replace("http://127.0.0.1:8000", server.url).replace(BUILT_IN_MODEL, MODEL)


def test_there_are_examples() -> None:
    assert len(commands()) > 8
    assert any("/v1/chat/completions" in command for command in commands())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't installed")
@pytest.mark.parametrize("command", commands(), ids=lambda command: re.findall(r"8000(/\S+)", command)[0])
def test_curl(server: RunningServer, command: str) -> None:
    words = local(command, server).replace("curl ", "curl --silent --show-error --fail-with-body --max-time 30 ", 1)
    answer = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    if '"stream": true' in command:
        assert answer.stdout.rstrip().endswith("data: [DONE]")
    elif not command.endswith("/metrics"):
        assert json.loads(answer.stdout)


def test_the_readme_s_client(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = [block for block in blocks("README.md", "python") if "from openai import OpenAI" in block]
    exec(compile(local(program, server), "README.md", "exec"), {})
    assert "Egypt" in capsys.readouterr().out, "the echo of the question"
