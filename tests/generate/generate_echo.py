"""The program that the tests start: `learnsgl generate` with the echo executor in the engine's place."""

from __future__ import annotations

import functools
import sys

from learnsgl import cli
from learnsgl.generate import run
from learnsgl.llm import LLM

if __name__ == "__main__":
    run.LLM = functools.partial(LLM, executor_factory="tests.server.echo_executor:create_echo_executor")  # type: ignore[assignment, misc]
    sys.exit(cli.main(["generate", "--model", "tiny-random", *sys.argv[1:]]))
