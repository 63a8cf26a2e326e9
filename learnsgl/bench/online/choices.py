"""What a command line of `learnsgl bench online` asks for: contradictions refused, and defaults of what wasn't given.

`command.py` calls `check_online` before anything is started, and makes its settings with the rest.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from learnsgl.bench.online.options import DEFAULT_NUM_REQUESTS, DEFAULT_RATES
from learnsgl.bench.online.results import Load
from learnsgl.errors import FolderError, OptionError

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
_DEFAULT_SPEEDS = [1.0]
_SET_BY_US = frozenset({"model", "prompt", "messages", "stream", "stream_options", "max_tokens", "n"})


def check_online(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is started.

    Raises:
        OptionError: two options contradict each other, or one has no effect.
        FolderError: the figure couldn't be written.
    """
    sources = ("rate", "concurrency", "workload")
    _exclude(args, sources)
    if args.workload is None:
        _needs(args, "speed", "workload")
    else:
        for name in ("num_requests", "input_len", "output_len", "prefix_len", "num_prefixes", "prompts", "plain_share"):
            _exclude(args, ("workload", name))
    if args.prompts is not None:
        for name in ("input_len", "prefix_len", "num_prefixes", "vocab_size"):
            _exclude(args, ("prompts", name))
    for name in ("arrivals", "burstiness", "max_in_flight"):
        _exclude(args, ("concurrency", name))
    for name in ("arrivals", "burstiness"):
        _exclude(args, ("workload", name))
    if args.burstiness is not None and args.arrivals != "gamma":
        raise OptionError("--burstiness shapes gamma arrivals only; add --arrivals gamma")
    if args.num_prefixes is not None and not args.prefix_len:
        raise OptionError("--num-prefixes needs --prefix-len, the tokens of each")
    if args.url is not None and args.serve_options:
        raise OptionError("--serve-options is for a server that is started here; leave it or --url out")
    if args.prompt_form == "ids" and args.endpoint == "chat":
        raise OptionError("--prompt-form ids: a chat takes no token ids; add --endpoint completions")
    for path in args.probe:
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise OptionError(f"--probe is {path!r}; give the path of a route, such as /health")
    if args.vocab_size is not None and args.vocab_size < 10:
        raise OptionError(f"--vocab-size is {args.vocab_size}; give at least 10")
    if args.figure is not None:
        _check_figure(args.figure)


def _check_figure(path: Path) -> None:
    if path.suffix.lower() not in FIGURE_SUFFIXES:
        raise OptionError(f"--figure is {path.name!r}; give a name that ends with {', '.join(FIGURE_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise FolderError(f"--figure {path}: there is no folder {path.parent}; make it first")


def _exclude(args: argparse.Namespace, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(args, name) is not None]
    if len(given) > 1:
        flags = [f"--{name.replace('_', '-')}" for name in given]
        raise OptionError(f"{' and '.join(flags)} contradict each other; leave one out")


def _needs(args: argparse.Namespace, name: str, other: str) -> None:
    if getattr(args, name) is not None and getattr(args, other) is None:
        raise OptionError(f"--{name} goes with --{other}; add it, or leave --{name} out")


def loads_of(args: argparse.Namespace) -> list[Load]:
    """The loads of the sweep."""
    if args.workload is not None:
        return [Load(speed=speed) for speed in args.speed or _DEFAULT_SPEEDS]
    if args.concurrency is not None:
        return [Load(concurrency=number) for number in args.concurrency]
    rates = args.rate or DEFAULT_RATES
    return [Load(is_burst_of_all=True) if math.isinf(rate) else Load(rate=rate) for rate in rates]


def num_requests_of(args: argparse.Namespace) -> int | None:
    """Requests of a run; `None` where a file says it."""
    if args.num_requests is not None or args.workload is not None or args.prompts is not None:
        return None if args.num_requests is None else int(args.num_requests)
    return DEFAULT_NUM_REQUESTS


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def extra_body_of(args: argparse.Namespace) -> dict[str, Any]:
    """More fields of every request.

    Raises:
        OptionError: it isn't a JSON object, or sets what the benchmark sets itself.
    """
    try:
        body = json.loads(args.extra_body, parse_constant=_no_constant)
    except ValueError as error:
        raise OptionError(f"--extra-body is {args.extra_body!r}, which is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise OptionError(f'--extra-body is {args.extra_body!r}; give a JSON object, as in {{"top_k": 20}}')
    taken = sorted(body.keys() & _SET_BY_US)
    if taken:
        raise OptionError(f"--extra-body sets {', '.join(taken)}, which the benchmark sets itself; leave it out")
    return body
