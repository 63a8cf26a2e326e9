"""The work of `learnsgl generate`: check everything, load the model, answer, and end with the right exit code."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from learnsgl.errors import FolderError
from learnsgl.generate.command import AREAS
from learnsgl.generate.inputs import Item, read_items
from learnsgl.generate.results import Results, json_line, text_form
from learnsgl.llm import LLM
from learnsgl.options import config_from_args
from learnsgl.terminal import harmless, utf8_output

INTERRUPTED = 130


def run_generate(args: argparse.Namespace) -> int:
    """Answer the prompts that the command line names.

    Returns:
        The exit code: 0, 1 where some prompts could not be answered, 130 after Ctrl-C.

    Raises:
        UsageError: an option or a line is wrong; nothing has run.
        StartupError: the model can't be loaded.
        ServingError: the engine broke.
    """
    config = config_from_args(args)
    items = read_items(args)
    options = {name: value for area in AREAS for name, value in asdict(getattr(config, area)).items()}
    if sys.stderr.isatty() and not args.quiet:
        _say(f"loading {config.engine.model}")
    with _output(args.output) as stream, LLM(**options) as llm:
        if args.output is not None and args.output.is_file():
            stream.truncate(0)
        try:
            if len(items) == 1 and not args.jsonl and args.output is None:
                return _stream_one(llm, items[0], stream)
            form = json_line if args.jsonl else text_form(len(items), stream.isatty())
            return _answer_all(llm, items, Results(items, stream, form), progress=not args.quiet)
        except BrokenPipeError:  # whoever reads has seen enough, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def _answer_all(llm: LLM, items: Sequence[Item], results: Results, *, progress: bool) -> int:
    prompts, params = [item.prompt for item in items], [item.sampling for item in items]
    try:
        for completion in llm.generate_each(prompts, params, progress=progress):
            results.add(completion)
    except KeyboardInterrupt:
        results.write_early()
        _say(f"interrupted: {results.num_written} of {len(items)} prompts were finished")
        return INTERRUPTED
    if results.num_failed:
        _say(f"{results.num_failed} of {len(items)} prompts could not be answered; their results say why")
    return 1 if results.num_failed else 0


def _stream_one(llm: LLM, item: Item, stream: TextIO) -> int:
    """A single answer is written as it comes."""
    try:
        for delta in llm.stream(item.prompt, item.sampling):
            stream.write(harmless(delta.text) if stream.isatty() else delta.text)
            stream.flush()
    except KeyboardInterrupt:
        stream.write("\n")
        return INTERRUPTED
    stream.write("\n")
    stream.flush()
    return 0


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Where results go: a new file, or standard output.

    Raises:
        FolderError: the file can't be written.
    """
    if path is None:
        yield utf8_output()
        return
    try:
        file = path.open("a", encoding="utf-8")  # what is in it stays until there are new results
    except OSError as error:
        raise FolderError(
            f"--output {path} can't be written: {error.strerror}; give a file that you can write"
        ) from None
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # each result was flushed, so what a disk refuses was told before
            file.close()


def _say(text: str) -> None:
    print(f"learnsgl: {text}", file=sys.stderr)
