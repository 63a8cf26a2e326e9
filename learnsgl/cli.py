"""The `learnsgl` command: reads the command line, and calls the room that does the work.

What is needed for one subcommand is imported only for that one, so that `--help` answers at once and most commands
never load torch.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from learnsgl.errors import LearnsglError, StartupError, UsageError
from learnsgl.options import add_options, config_from_args

_EPILOG = """\
examples:
  learnsgl demo                              the whole story in one command: serve, ask, record, show
  learnsgl serve --trace traces              an OpenAI-compatible server, and a recording of all it does
  learnsgl trace verify traces               prove that the newest recording is complete
  learnsgl chat                              talk with the server, or with one that is started for it
  learnsgl generate --chat "Who are you?"    answer prompts without a server
  learnsgl doctor                            what is wrong with this machine, and how to mend it
"""

_SERVE_EPILOG = """\
examples:
  learnsgl serve                             the built-in model at http://127.0.0.1:8000/v1
  learnsgl serve --port 0 --trace traces     a free port; every component's events go to ./traces
  learnsgl serve --model tiny-random         a random model that starts in seconds, to try things out
  learnsgl serve --no-overlap --policy mixed other scheduling, to compare two recordings

then, from another terminal:
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "smollm2-135m", "messages": [{"role": "user", "content": "What is a KV cache?"}]}'

Ctrl-C lets running requests finish, a second one ends at once. Exit codes: 0 ended as asked, 2 a wrong option,
3 could not start, 4 broke while it ran.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that raises, so that every error of the command line looks the same and has one exit code."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # a new option must not change what a shortened one means
        super().__init__(**kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what this very command doesn't know, so that its own options are suggested and its help is named."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestion(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def _suggestion(self, unknown: Sequence[str]) -> str:
        """The option that was probably meant."""
        given = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
        names = sorted(name for action in self._actions for name in action.option_strings)
        close = difflib.get_close_matches(given, names, n=1)
        return f"; did you mean {close[0]}?" if close else ""


def make_parser(*, only_doctor: bool = False) -> argparse.ArgumentParser:
    """The parser of the whole command line; each subcommand sets `run`, a function that returns an exit code.

    Args:
        only_doctor: leave the other commands out, and with them the packages that they import: the doctor must also
            answer where those can't be loaded.
    """
    from learnsgl.doctor.commands import add_doctor_command

    parser = _Parser(
        prog="learnsgl",
        description="An LLM inference server that records what each of its parts does, for people to learn from.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"learnsgl {version('learnsgl')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    if not only_doctor:
        _add_commands(subparsers)
    add_doctor_command(subparsers)
    return parser


def _add_commands(subparsers: Any) -> None:
    from learnsgl.bench import add_bench_command
    from learnsgl.chat import add_chat_command
    from learnsgl.demo import add_demo_command
    from learnsgl.generate import add_generate_command
    from learnsgl.hub.commands import add_model_command
    from learnsgl.ps.commands import add_ps_command
    from learnsgl.trace.commands import add_trace_command

    add_demo_command(subparsers)
    _add_serve_command(subparsers)
    add_generate_command(subparsers)
    add_chat_command(subparsers)
    add_model_command(subparsers)
    add_ps_command(subparsers)
    add_trace_command(subparsers)
    add_bench_command(subparsers)


def _add_serve_command(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="start the server",
        description="Start the OpenAI-compatible server: an API process, tokenizers, a detokenizer and a scheduler.",
        epilog=_SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from learnsgl.server.launch import launch_server

    launch_server(config_from_args(args))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the console script `learnsgl` calls it.

    Args:
        argv: the words after `learnsgl`; by default those of this process.

    Returns:
        The exit code: 0, an error's own, 130 after Ctrl-C.
    """
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        args = make_parser(only_doctor=words[:1] == ["doctor"]).parse_args(words)
        exit_code = int(args.run(args))
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:  # whoever reads has seen enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LearnsglError as error:
        print(f"learnsgl: error: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        if (error.name or "").startswith("learnsgl"):
            raise
        said = (str(error).strip() or repr(error)).splitlines()[-1]  # where numpy and others put the system's own words
        print(f"learnsgl: error: a package can't be loaded: {said}; for the remedy: learnsgl doctor", file=sys.stderr)
        return StartupError.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
