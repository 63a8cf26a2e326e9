"""The work of `learnsgl chat` around the shell: finding a server, or starting one, and ending what was started."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import fields
from typing import Any

from learnsgl.chat.client import KEY_HINT, NO_ACCESS, ChatClient
from learnsgl.chat.command import AREAS, DEFAULT_URL
from learnsgl.chat.readers import PipeReader, Reader, TerminalReader
from learnsgl.chat.shell import COMMANDS, Partner, Shell
from learnsgl.config import Config, cache_folder, client_api_key
from learnsgl.errors import LearnsglError, OptionError, RequestError, StartupError
from learnsgl.hub import resolve_model
from learnsgl.local_server import LocalServer
from learnsgl.option_field import flag_of
from learnsgl.terminal import utf8_output

_LAST_LOG_LINES = 10


def run_chat(args: argparse.Namespace, *, own_model: str) -> int:
    """Chat.

    Args:
        args: the command line.
        own_model: what a server of its own serves where no model was asked for.

    Returns:
        The exit code.

    Raises:
        UsageError: a wrong option.
        StartupError: there is no server, and none could be started.
        ServingError: the server went away.
    """
    with contextlib.ExitStack() as cleanup:
        partner = _find_partner(args) or _start_partner(args, args.model or own_model, cleanup)
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        reader: Reader = PipeReader(sys.stdin.buffer)
        if interactive:
            print(
                f"{partner.model} at {partner.client.url}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D "
                "leaves."
            )
            reader = TerminalReader(list(COMMANDS), cache_folder() / "chat_history")
        return Shell(partner, reader, utf8_output(), interactive=interactive, system=args.system).run()


def _find_partner(args: argparse.Namespace) -> Partner | None:
    """The running server that the options mean; `None` where a server of its own is the answer.

    Raises:
        StartupError: `--url` names a server that isn't there.
        OptionError: the server at `--url` hasn't got the model.
    """
    client = ChatClient(args.url or DEFAULT_URL, client_api_key(args.api_key, is_url_given=args.url is not None))
    try:
        models = client.models()
    except LearnsglError as error:
        if isinstance(error, RequestError) and error.status in NO_ACCESS:
            raise StartupError(f"{client.url} refuses: {error}. {KEY_HINT}") from error
        if args.url is None:
            _say(f"no server at {DEFAULT_URL}; starting one for this chat")
            return None
        raise StartupError(
            f"{error}; start a server there, or leave --url out, and the chat starts one of its own"
        ) from error
    if args.model is None or args.model in models:
        if not models:
            raise StartupError(f"{client.url} serves no model")
        return Partner(client, args.model or models[0], _sampling(args))
    if args.url is not None:
        raise OptionError(f"--model is {args.model!r}, and {client.url} has: {', '.join(models)}")
    _say(f"the server at {client.url} has {', '.join(models)}; starting another with {args.model}")
    return None


def _start_partner(args: argparse.Namespace, model: str, cleanup: contextlib.ExitStack) -> Partner:
    """A server of the chat's own, which ends with it."""
    resolve_model(model, dummy_weights=args.dummy_weights, progress=True)  # here, where a download's progress is seen
    server = cleanup.enter_context(LocalServer(*_options(args), model=model, trace=args.trace))
    _say(server.ready_line)

    def last_words() -> str:
        if server.is_running:
            return ""
        lines = server.log.splitlines()[-_LAST_LOG_LINES:]
        return "; the server of this chat has ended, and its last words were:\n" + "\n".join(lines)

    key = client_api_key(args.api_key, is_url_given=False)  # the server has read the same variable
    return Partner(ChatClient(server.url, key), server.model, _sampling(args), server.trace_folder, last_words)


def _options(args: argparse.Namespace) -> list[str]:
    """The options that differ from their defaults, as words for `learnsgl serve`."""
    words = []
    for area in AREAS:
        defaults = getattr(Config(), area)
        for f in fields(defaults):
            value = getattr(args, f.name)
            if f.name in ("model", "trace") or value == getattr(defaults, f.name):
                continue
            flag = flag_of(f)
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                words += [flag, str(value)]
    return words


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    given = {"max_tokens": args.max_tokens, "temperature": args.temperature, "top_p": args.top_p}
    return {name: value for name, value in given.items() if value is not None}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
