"""The demo from beginning to end: serve, ask, stop, read the recording back, prove it, draw it.

`learnsgl demo` calls `run_demo`. It is also the one test that goes through every room of the house with the real model.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from learnsgl.config import BUILT_IN_MODEL
from learnsgl.demo.ask import Answer, ask_all
from learnsgl.demo.check import Finding, findings, lives_of
from learnsgl.demo.child import DemoServer
from learnsgl.demo.folder import DemoFolder
from learnsgl.demo.questions import QUESTIONS, Question
from learnsgl.demo.report import request_table, stage_table
from learnsgl.hub import resolve_model
from learnsgl.server.signals import raised_as_exceptions, run_or_cancel
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify

NUM_PAGES = 8192
"""Tokens of KV cache, at the default page size of 1: room for all four requests, and less than 400 MB."""


def run_demo(out: Path) -> int:
    """Run it, and tell the story on the standard output.

    Args:
        out: folder for the recording, the log and the figures.

    Returns:
        0 when everything held, 1 when something did not; it is named.

    Raises:
        LearnsglError: the model can't be had, the server can't start or broke, or the trace doesn't verify.
    """
    started = time.monotonic()
    with raised_as_exceptions(), DemoFolder(out) as folder:
        _title("the model")
        model = resolve_model(BUILT_IN_MODEL)
        print(f"{model.name} is here: {model.folder}")
        answers = _serve_and_ask(folder, model.name)
        trace = Trace.open(folder.keep_recording())
        found = _tell(trace, answers)
        _title("the proof (learnsgl trace verify)")
        print(verify(trace))
        _title("the picture")
        _draw(trace, answers, folder)
    return _conclude(found, folder, time.monotonic() - started)


def _serve_and_ask(folder: DemoFolder, model: str) -> list[Answer]:
    _title("the server")
    options = ["--model", model, "--port", "0", "--num-pages", str(NUM_PAGES), "--trace", str(folder.recording)]
    print(f"python -m learnsgl serve {' '.join(options)}", flush=True)
    with DemoServer(options, folder.log) as server:
        server.start()
        server.wait_ready()
        print(server.ready_line)
        _title(f"{len(QUESTIONS)} questions at once, through the openai client")
        terminal = _Terminal(QUESTIONS[0])
        answers = run_or_cancel(lambda: ask_all(server.url, QUESTIONS, terminal.on_text))
        terminal.print_others(answers)
        server.stop()
    print("\nthe server was asked to stop (SIGTERM), and has ended in order")
    return answers


class _Terminal:
    """Shows one answer while it comes, and the others when all are there."""

    def __init__(self, streamed: Question) -> None:
        self._streamed = streamed
        print(f"({streamed.name}) {streamed.user}\n    ", end="", flush=True)

    def on_text(self, question: Question, text: str) -> None:
        if question is self._streamed:
            print(text, end="", flush=True)

    def print_others(self, answers: Sequence[Answer]) -> None:
        print()
        for answer in answers:
            question = answer.question
            if question is not self._streamed:
                print(f"({question.name}) {question.shown or question.user}\n    {' '.join(answer.text.split())}")


def _tell(trace: Trace, answers: Sequence[Answer]) -> list[Finding]:
    lives = lives_of(trace, answers)
    _title(f"what the recording says ({trace.path})")
    print(request_table(answers, lives))
    print(f"\nthe life of request {answers[0].question.name} (uid {answers[0].uid}) in eight stages:\n")
    print(stage_table(lives[0]))
    print()
    found = findings(trace, answers)
    for finding in found:
        print(finding)
    return found


def _draw(trace: Trace, answers: Sequence[Answer], folder: DemoFolder) -> None:
    from learnsgl.viz.theme import DARK, LIGHT
    from learnsgl.viz.timeline import timeline

    names = {answer.uid: answer.question.name for answer in answers}
    for theme, path in ((LIGHT, folder.figure), (DARK, folder.dark_figure)):
        figure, _ = timeline(trace, theme=theme, names=names, title=TITLE)
        figure.savefig(path)
    print(f"{folder.figure} (for dark pages: {folder.dark_figure})\n{LOOK_AT}")


TITLE = "Four questions at once: d is too long for one step, b and c share a system prompt"
LOOK_AT = """
Look at these five things:
  1. prefill chunks: the prompt of d is cut into chunks of at most 512 tokens a step. Of the prompts of b and c only
     one is wide: the other takes the system prompt from the cache, and computes its last tokens alone.
  2. decode steps: after the prompts each step gives every request one token; requests that have ended leave the batch.
  3. api: a tick is a chunk sent to a client. While prompts are computed, the answer of a stands still, for the policy
     is prefill-first. Compare with: learnsgl serve --policy mixed
  4. A: a request's messages on their way from process to process. Those of b, c and d wait until the scheduler looks
     for messages again, which it does between steps.
  5. B: the device begins with the next step before the scheduler has seen the last one's tokens. That is overlap;
     without it (learnsgl serve --no-overlap) the device would wait for all that the CPU does here."""


def _conclude(found: Sequence[Finding], folder: DemoFolder, seconds: float) -> int:
    _title("the end")
    failed = [finding for finding in found if not finding.holds]
    if failed:
        print(f"{len(failed)} of {len(found)} points did not hold:")
        for finding in failed:
            print(finding)
        return 1
    print(f"all of it held, in {seconds:.0f} s. Go on with the same recording:")
    for words in (f"trace info {folder.trace}", f"trace cat {folder.trace} --kind sched | head"):
        print(f"  {_command()} {words}")
    return 0


def _command() -> str:
    """How this program is called from the shell: a virtual environment that isn't active isn't on its path."""
    return "learnsgl" if shutil.which("learnsgl") else f"{os.path.relpath(sys.executable)} -m learnsgl"


def _title(text: str) -> None:
    print(f"\n== {text} ==", flush=True)
