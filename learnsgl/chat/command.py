"""The options of `learnsgl chat`, and what its help says."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from learnsgl.config import BUILT_IN_MODEL
from learnsgl.errors import StartupError
from learnsgl.options import add_options

DEFAULT_URL = "http://127.0.0.1:8000"

AREAS = ("engine", "scheduler", "trace")
"""Options of the server that are handed on to one that the chat starts itself."""

_EPILOG = f"""\
examples:
  learnsgl chat                              with the server at {DEFAULT_URL}, or else one of its own
  learnsgl chat --trace traces               a server of its own, recorded; /stats then shows its own times
  learnsgl chat --url http://gpu-box:8000    with a server elsewhere, also vLLM's or SGLang's
  learnsgl chat --model tiny-random          with this model
  printf 'Hi\\n/stats\\n' | learnsgl chat      line by line, without a terminal

in the chat: /help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves. Lines are kept in the cache folder
(chat_history), for the arrow keys.
exit codes: 0 left as asked, 1 a line of a script was refused, 2 a wrong option, 3 no server, 4 the server went away.
"""


def add_chat_command(subparsers: Any) -> None:
    """Add `chat`; it sets `run`, a function of the parsed arguments that returns an exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gave for the `learnsgl` command.
    """
    parser = subparsers.add_parser(
        "chat",
        help="talk with a server in the terminal",
        description="Talk with a running server, or with one that is started for it and ends with it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("chat")
    group.add_argument("--url", help=f"an OpenAI-compatible server (default: {DEFAULT_URL}, or one of its own)")
    group.add_argument(
        "--api-key",
        metavar="KEY",
        help="key that the server asks for, if it does (default: $LEARNSGL_API_KEY, and with --url $OPENAI_API_KEY)",
    )
    group.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    group.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of an answer (default: the server's)")
    group.add_argument("--temperature", type=float, metavar="X", help="of the sampling (default: the server's)")
    group.add_argument("--top-p", type=float, metavar="X", help="of the sampling (default: the server's)")
    add_options(parser, areas=AREAS)
    # which model was asked for matters only where one was: a running server has its own
    parser.set_defaults(run=_run, model=None)


def _run(args: argparse.Namespace) -> int:
    missing = [name for name in ("httpx", "prompt_toolkit") if importlib.util.find_spec(name) is None]
    if missing:
        raise StartupError(
            f"the chat needs {' and '.join(missing)}, which this installation lacks: pip install --upgrade learnsgl, "
            "or in a checkout: pip install --editable ."
        )
    from learnsgl.chat.run import run_chat

    return run_chat(args, own_model=BUILT_IN_MODEL)
